"""`softcache.build`: from a recipe to a commit."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tqdm import tqdm

from softcache.builder.answer.answers import Answers
from softcache.builder.answer.canary import check_canaries
from softcache.builder.answer.codec_tables import tables_in_force, with_tables
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.opening import make_samples, opened_predictor, teacher_jobs
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.runner import run_jobs
from softcache.builder.answer.samples import Samples
from softcache.builder.answer.sampling import check_draws
from softcache.builder.prepare.prepared import PreparedBuild, prepare, rebase
from softcache.builder.prepare.recipes import opened_recipe
from softcache.builder.prepare.space import check_space, estimated_bytes
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.builder.prepare.view_records import RecordedViews
from softcache.builder.publish.commit import Outcome, Publication, publish_build
from softcache.builder.publish.shards import write_rows, write_target
from softcache.builder.publish.summary import Summary, summarise
from softcache.builder.signals import stop_on_signals
from softcache.errors import IncompleteCache, RecipeError, counted
from softcache.store.marker import require_marker
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt

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

    Run again, it computes only what has no receipt; if nothing is left to do, it commits nothing. `overrides` are
    `KEY=VALUE` and `~KEY`; `limit` takes the first so many samples; `progress` shows a bar on stderr.

    Raises:
        RecipeError: the recipe is wrong.
        IncompatibleTarget: a target of the same name was made differently.
        IncompleteCache: stopped by Ctrl-C or SIGTERM; run it again to go on.
        CommitConflict: another writer meanwhile committed a target of the same name that was made differently.
            Everything else that other writers commit is kept, and this build's commit follows theirs.
        TransferSetError, TeacherError, CodecError, AlignmentError, StorageError: see their docstrings.

    Examples:
        >>> summary = softcache.build("recipes/digits/recipe.yaml", "runs/digits")
        >>> [target.name for target in summary.targets]
        ['digit@a', 'digit@b', 'digit@c', 'embedding@a']
    """
    started = time.monotonic()
    if limit is not None and limit < 1:
        raise RecipeError(f"limit is {limit}; expected at least 1")
    with stop_on_signals() as stop, opened_recipe(recipe, overrides) as loaded:
        prepared = prepare(loaded, output, limit=limit, progress=progress, stop=stop)
        answered = 0
        for attempt in itertools.count():
            receipts, computed = run(prepared, stop, progress)
            answered += computed
            began = time.monotonic()
            outcome = commit(prepared, receipts)
            if outcome is not Outcome.OVERTAKEN:
                break
            # The more writers there are, the longer each should wait, in units of what a commit takes here.
            longest = (time.monotonic() - began) * 2 ** min(attempt, MOST_DOUBLINGS)
            stop.wait(random.uniform(0, min(longest, LONGEST_PAUSE)))
            prepared = rebase(prepared)
        seconds, up_to_date = time.monotonic() - started, outcome is Outcome.UP_TO_DATE
        return summarise(prepared.files, prepared.targets, answered, seconds, up_to_date=up_to_date)


def run(prepared: PreparedBuild, stop: threading.Event, progress: bool) -> tuple[dict[str, Receipt], int]:
    """Do every unit that is left; return their receipts by unit key, and how many samples teachers answered.

    Raises StorageError before it begins if the disk is too small, IncompleteCache if `stop` was set.
    """
    todo = prepared.todo
    check_space(prepared.files, estimated_bytes(todo, prepared.kept_bytes))
    jobs, samples = teacher_jobs(prepared), make_samples(prepared)
    rows = _RowsWriter(prepared, samples)
    receipts = [] if samples.augments else rows.write_rest(stop)
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
                receipts += _run_teacher(prepared, name, of_teacher, rows, samples, stop, advance)
    receipts += rows.write_rest(stop)
    done = {receipt.shard.unit_key: receipt for receipt in receipts}
    left = sum(u.key not in done for u in todo)
    if left:
        raise IncompleteCache(
            f"stopped; {left:,} of {counted(len(prepared.units), 'shard')} left. Run the same command again to go on: "
            "nothing that is done is computed again"
        )
    return done, answered


def commit(prepared: PreparedBuild, receipts: dict[str, Receipt]) -> Outcome:
    """Publish a finished build."""
    files, committed = prepared.files, prepared.inventory.committed
    described = prepared.recipe.transfer_set.model_dump(mode="json") | {"content": list(prepared.transfer_set.content)}
    publication = Publication(
        marker=require_marker(files, to_write=True),
        plan=prepared.work.plan,
        units=prepared.units,
        targets=prepared.targets,
        tables={t.name: tables_in_force(files, t, committed.get(t.name)) or {} for t in prepared.targets},
        rows=prepared.rows_declaration,
        transfer_set=described,
    )
    return publish_build(files, publication, prepared.inventory.with_receipts(receipts))


class _RowsWriter:
    """Writes the shards of `rows` that are left, each once the views of its fragment are known."""

    def __init__(self, prepared: PreparedBuild, samples: Samples) -> None:
        self._prepared, self._samples = prepared, samples
        self._left = {u.fragment.number: u for u in prepared.todo if u.target is None}

    def write_for(self, fragment: Fragment) -> list[Receipt]:
        """Write the shard of a fragment whose views have all been made, unless it is written; return its receipt."""
        unit = self._left.pop(fragment.number, None)
        return [] if unit is None else [self._write(unit, self._samples.take(fragment))]

    def write_rest(self, stop: threading.Event) -> list[Receipt]:
        """Write all that are left, of views that no teacher has asked for, until `stop` is set."""
        receipts = []
        for number in list(self._left):
            if stop.is_set():
                break
            unit = self._left.pop(number)
            job = Job(unit.fragment, self._prepared.work.positions[number], [])
            views = self._samples.record_all(job, self._prepared.recipe.build.batch_size)
            receipts.append(self._write(unit, views))
        return receipts

    def _write(self, unit: Unit, views: RecordedViews | None) -> Receipt:
        prepared = self._prepared
        kept = prepared.transfer_set.table(prepared.work.positions[unit.fragment.number], prepared.transfer_set.keep)
        receipt = write_rows(prepared.files, unit, kept, prepared.rows_declaration, views)
        self._samples.published(unit.fragment, receipt)
        return receipt


def _run_teacher(
    prepared: PreparedBuild,
    name: str,
    jobs: list[Job],
    rows: _RowsWriter,
    samples: Samples,
    stop: threading.Event,
    progress: Callable[[int], object],
) -> list[Receipt]:
    """Load a teacher, answer its jobs and return the receipts. It is gone afterwards: the next one needs the memory."""
    with opened_predictor(prepared, name, samples) as predictor:
        if prepared.augmentation is not None and prepared.augmentation.uses_global_generators:
            check_draws(predictor, jobs[0])
        return _answer(prepared, predictor, _with_tables(prepared, predictor, jobs), rows, stop, progress)


def _with_tables(prepared: PreparedBuild, predictor: Predictor, jobs: list[Job]) -> list[Job]:
    """Return the jobs with their targets' tables, after a look at canaries of what is stored already."""
    targets: dict[str, BuildTarget] = {}
    for target in {t.name: t for job in jobs for t in job.targets}.values():
        own = [job for job in jobs if target in job.targets]
        committed = prepared.inventory.committed.get(target.name)
        targets[target.name] = with_tables(prepared.files, predictor, target, own, committed)
        check_canaries(
            prepared.files,
            predictor,
            targets[target.name],
            prepared.units,
            prepared.work.positions,
            prepared.inventory,
        )
    return [replace(job, targets=[targets[t.name] for t in job.targets]) for job in jobs]


def _answer(
    prepared: PreparedBuild,
    predictor: Predictor,
    jobs: list[Job],
    rows: _RowsWriter,
    stop: threading.Event,
    progress: Callable[[int], object],
) -> list[Receipt]:
    units = {(u.name, u.fragment.number): u for u in prepared.units}

    def write(job: Job, answers: Answers) -> list[Receipt]:
        # The views are recorded before the answers to them, so that whoever answers later, or again, sees the same.
        recorded = rows.write_for(job.fragment)
        unit = units[answers.target.name, job.fragment.number]
        return [*recorded, write_target(prepared.files, unit, job, answers)]

    written = run_jobs(predictor, jobs, write, stop, progress)
    return [receipt for receipts in written for receipt in receipts]
