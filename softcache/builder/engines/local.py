"""The local engine: one teacher after the other in this process, with threads that read, answer and write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from tqdm import tqdm

from softcache.builder.answer.answers import Answers
from softcache.builder.answer.canary import check_canaries
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.opening import make_samples, opened_predictor, teacher_jobs
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.runner import run_jobs
from softcache.builder.answer.samples import Samples
from softcache.builder.answer.sampling import check_draws
from softcache.builder.answer.target_tables import publish_tables
from softcache.builder.prepare.prepared import PreparedBuild
from softcache.builder.prepare.space import check_space, estimated_bytes
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.builder.prepare.view_records import RecordedViews
from softcache.builder.publish.shards import write_rows, write_target
from softcache.errors import IncompleteCache, counted
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt


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
        kept = prepared.transfer_set.kept(prepared.work.positions[unit.fragment.number], prepared.scan)
        receipt = write_rows(prepared.out, unit, kept, prepared.rows_declaration, views)
        self._samples.note_rows(unit.fragment, receipt)
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
        return _answer(prepared, predictor, _ready_jobs(prepared, predictor, jobs), rows, stop, progress)


def _ready_jobs(prepared: PreparedBuild, predictor: Predictor, jobs: list[Job]) -> list[Job]:
    """Return the jobs with their targets' tables, after a look at canaries of what is stored already."""
    targets: dict[str, BuildTarget] = {}
    for target in {t.name: t for job in jobs for t in job.targets}.values():
        own = [job for job in jobs if target in job.targets]
        targets[target.name] = publish_tables(prepared.out, predictor, target, own, prepared.inventory)
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
        # Views are recorded before the answers to them, so that a teacher that answers later, or again, sees the same.
        recorded = rows.write_for(job.fragment)
        unit = units[answers.target.name, job.fragment.number]
        return [*recorded, write_target(prepared.out, unit, job, answers)]

    written = run_jobs(predictor, jobs, write, stop, progress)
    return [receipt for receipts in written for receipt in receipts]
