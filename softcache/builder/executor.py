"""`softcache.build`: from a recipe to a commit."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from softcache.builder.answers import Answers
from softcache.builder.canary import check_canaries
from softcache.builder.estimate import check_space, estimated_bytes
from softcache.builder.jobs import Job
from softcache.builder.pipeline import Runner
from softcache.builder.preparing import Prepared, make_samples, prepare, rebase, teacher_jobs, teacher_runner
from softcache.builder.publish import Outcome, Publication, publish_build
from softcache.builder.samples import Samples
from softcache.builder.shard_writer import write_rows, write_target
from softcache.builder.signals import stop_on_signals
from softcache.builder.summary import Summary, summarise
from softcache.builder.tables import tables_in_force, with_tables
from softcache.builder.targets import BuildTarget
from softcache.builder.units import Unit
from softcache.builder.view_records import RecordedViews
from softcache.errors import IncompleteCache, RecipeError, counted
from softcache.recipe import load_recipe
from softcache.store.commits import CommittedTarget
from softcache.store.marker import require_marker
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt
from softcache.teachers import find_adapter
from softcache.transfer.python import recipe_modules

LONGEST_PAUSE, MOST_DOUBLINGS = 10.0, 10  # seconds, attempts


def build(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: bool = False,
) -> Summary:
    """Run a recipe's teachers over its transfer set and commit their answers to the cache at `output`.

    Run again, it recomputes only what has no receipt; with nothing left to do it commits nothing. `overrides` are
    `KEY=VALUE` and `~KEY`; `limit` takes the first so many samples; `progress` shows a bar on stderr.

    Raises:
        RecipeError: the recipe is wrong.
        IncompatibleTarget: a target of the same name was made otherwise.
        IncompleteCache: stopped by Ctrl-C or SIGTERM; run it again to go on.
        CommitConflict: another writer committed a target of the same name, made otherwise, meanwhile. Whatever else
            other writers commit meanwhile is kept, and this build's commit follows theirs.
        TransferSetError, TeacherError, CodecError, AlignmentError, StorageError: see their docstrings.
    """
    started = time.monotonic()
    if limit is not None and limit < 1:
        raise RecipeError(f"limit is {limit}; expected at least 1")
    with stop_on_signals() as stop, recipe_modules(Path(recipe).parent):
        loaded = load_recipe(recipe, overrides, find_adapter)
        prepared = prepare(loaded, output, limit=limit, progress=progress, stop=stop)
        answered = 0
        for attempt in itertools.count():
            receipts, computed = run(prepared, stop, progress)
            answered += computed
            began = time.monotonic()
            outcome = commit(prepared, receipts)
            if outcome is not Outcome.OVERTAKEN:
                break
            # The more writers, the longer each should wait, in units of what a commit takes here.
            longest = (time.monotonic() - began) * 2 ** min(attempt, MOST_DOUBLINGS)
            stop.wait(random.uniform(0, min(longest, LONGEST_PAUSE)))
            prepared = rebase(prepared)
        seconds, up_to_date = time.monotonic() - started, outcome is Outcome.UP_TO_DATE
        return summarise(prepared.files, prepared.targets, answered, seconds, up_to_date=up_to_date)


def run(prepared: Prepared, stop: threading.Event, progress: bool) -> tuple[dict[str, Receipt], int]:
    """Do every unit that is left; return their receipts by unit key, and how many samples teachers answered.

    Raises StorageError before it begins if the disk is too small, IncompleteCache if `stop` was set.
    """
    todo = prepared.todo
    check_space(prepared.files, estimated_bytes(todo, prepared.kept_bytes))
    receipts: dict[str, Receipt] = {}
    jobs, samples = teacher_jobs(prepared), make_samples(prepared, receipts)
    rows = _RowsWriter(prepared, samples, receipts)
    if not samples.augments:
        rows.write_rest(stop)
    answered = 0
    total = sum(job.fragment.rows for of_teacher in jobs.values() for job in of_teacher)
    with tqdm(total=total, unit=" samples", desc="softcache build", disable=not progress or not total) as bar:

        def advance(samples: int) -> None:
            nonlocal answered
            answered += samples
            bar.update(samples)

        for name, of_teacher in jobs.items():
            if not stop.is_set():
                bar.set_postfix_str(f"teacher {name}")
                _run_teacher(prepared, name, of_teacher, rows, samples, stop, advance)
    rows.write_rest(stop)
    left = sum(u.key not in receipts for u in todo)
    if left:
        raise IncompleteCache(
            f"stopped; {left:,} of {counted(len(prepared.units), 'shard')} left. Run the same command again to go on: "
            "nothing that is done is computed again"
        )
    return receipts, answered


def commit(prepared: Prepared, receipts: dict[str, Receipt]) -> Outcome:
    """Publish a finished build."""
    described = prepared.recipe.transfer_set.model_dump(mode="json") | {"content": list(prepared.transfer_set.content)}
    publication = Publication(
        require_marker(prepared.files, to_write=True),
        prepared.work.plan,
        prepared.units,
        prepared.targets,
        {t.name: tables_in_force(prepared.files, t, _committed(prepared, t)) or {} for t in prepared.targets},
        prepared.rows_declaration["keep"],
        prepared.rows_declaration.get("augmentation"),
        described,
    )
    written = {f.path: f.bytes for receipt in receipts.values() for f in receipt.shard.files}
    stored = replace(
        prepared.stored, receipts=prepared.stored.receipts | receipts, sizes=prepared.stored.sizes | written
    )
    return publish_build(prepared.files, publication, stored)


def _committed(prepared: Prepared, target: BuildTarget) -> CommittedTarget | None:
    """Return what the newest commit says of a target."""
    state = prepared.stored.state
    return None if state is None else state.commit.targets.get(target.name)


class _RowsWriter:
    """Writes the shards of `rows` that are left, each once its fragment's views are known."""

    def __init__(self, prepared: Prepared, samples: Samples, receipts: dict[str, Receipt]) -> None:
        """New receipts are added to `receipts`."""
        self._prepared, self._samples, self.receipts = prepared, samples, receipts
        self._left = {u.fragment.number: u for u in prepared.todo if u.target is None}

    def write_for(self, fragment: Fragment) -> None:
        """Write the shard of a fragment whose views have all been made, unless that is done."""
        unit = self._left.pop(fragment.number, None)
        if unit is not None:
            self._write(unit, self._samples.take(fragment))

    def write_rest(self, stop: threading.Event) -> None:
        """Write all that are left, of views that no teacher has asked for, until `stop` is set."""
        for number in list(self._left):
            if stop.is_set():
                return
            unit = self._left.pop(number)
            job = Job(unit.fragment, self._prepared.work.positions[number], [])
            self._write(unit, self._samples.record_all(job, self._prepared.recipe.build.batch_size))

    def _write(self, unit: Unit, views: RecordedViews | None) -> None:
        prepared = self._prepared
        kept = prepared.transfer_set.stored(prepared.work.positions[unit.fragment.number], prepared.transfer_set.keep)
        self.receipts[unit.key] = write_rows(prepared.files, unit, kept, prepared.rows_declaration, views)


def _run_teacher(
    prepared: Prepared,
    name: str,
    jobs: list[Job],
    rows: _RowsWriter,
    samples: Samples,
    stop: threading.Event,
    progress: Callable[[int], object],
) -> None:
    """Load a teacher and answer its jobs. Nothing of it is left afterwards: the next one needs the memory."""
    with teacher_runner(prepared, name, samples) as runner:
        _answer(prepared, runner, jobs, rows, stop, progress)


def _answer(
    prepared: Prepared,
    runner: Runner,
    jobs: list[Job],
    rows: _RowsWriter,
    stop: threading.Event,
    progress: Callable[[int], object],
) -> None:
    files = prepared.files
    if prepared.augmentation is not None and prepared.augmentation.uses_global_generators:
        runner.check_draws(jobs[0])
    targets: dict[str, BuildTarget] = {}
    for target in {t.name: t for job in jobs for t in job.targets}.values():
        own = [job for job in jobs if target in job.targets]
        targets[target.name] = with_tables(files, runner, target, own, _committed(prepared, target))
        check_canaries(files, runner, targets[target.name], prepared.units, prepared.work.positions, prepared.stored)
    jobs = [replace(job, targets=[targets[t.name] for t in job.targets]) for job in jobs]
    units = {(u.name, u.fragment.number): u for u in prepared.units}

    def write(job: Job, answers: Answers) -> None:
        # What teachers saw is recorded before what they said: who answers later, or again, sees the same.
        rows.write_for(job.fragment)
        unit = units[answers.target.name, job.fragment.number]
        rows.receipts[unit.key] = write_target(prepared.files, unit, job, answers)

    runner.run(jobs, write, stop, progress)
