"""`softcache plan` and `softcache validate`: what a build would do and cost, without building."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from softcache.builder.augmenting import load_augmentation
from softcache.builder.estimate import check_space, estimated_bytes
from softcache.builder.jobs import Job
from softcache.builder.pilot import CodecTrial, try_codecs, with_trial_table
from softcache.builder.pipeline import Runner
from softcache.builder.planning import open_transfer_set
from softcache.builder.preparing import Prepared, make_samples, prepare, teacher_jobs, teacher_runner
from softcache.builder.samples import Samples
from softcache.builder.targets import build_targets
from softcache.builder.units import Unit
from softcache.errors import AlignmentError, RecipeError, TransferSetError
from softcache.recipe import Recipe, TaskRecipe, load_recipe
from softcache.teachers import find_adapter
from softcache.transfer.hygiene import NO_LABEL, Hygiene, inspect
from softcache.transfer.python import recipe_modules

SAMPLES = 64
DECODED = 1000


@dataclass(frozen=True)
class TargetPlan:
    """What is left to do for one target (or `rows`): rows, fragments, and about how many bytes.

    `codecs` says what the target would take, and lose, in other codecs; of features it is empty.
    """

    name: str
    rows: int
    fragments: int
    bytes: int
    codecs: list[CodecTrial]


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do.

    `samples` are in the transfer set; `targets`, `bytes` and `seconds` are what is left to do; `seconds` is the
    teachers' estimated time, from a trial; `free_bytes` is None where the storage has no such limit.
    """

    path: str
    samples: int
    fragments: int
    targets: list[TargetPlan]
    bytes: int
    free_bytes: int | None
    seconds: float
    hygiene: Hygiene

    def to_json(self) -> dict[str, Any]:
        """Return the plan as an object."""
        return asdict(self)


def plan(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
) -> BuildPlan:
    """Return what building a recipe into `output` would do, after a trial of each teacher on 64 samples.

    Writes nothing. Raises StorageError if the build would not fit, and whatever the build itself would raise before
    and in the trial.
    """
    with recipe_modules(Path(recipe).parent):
        loaded = load_recipe(recipe, overrides, find_adapter)
        prepared = prepare(loaded, output, limit=limit, write=False)
        by_name: dict[str, list[Unit]] = {}
        for unit in prepared.todo:
            by_name.setdefault(unit.name, []).append(unit)
        seconds, tried = _try_teachers(prepared)
        targets = [_target_plan(prepared, name, units, tried.get(name)) for name, units in by_name.items()]
        needed = sum(t.bytes for t in targets)
        check_space(prepared.files, needed)
        return BuildPlan(
            path=prepared.files.url,
            samples=len(prepared.transfer_set),
            fragments=len(prepared.work.positions),
            targets=targets,
            bytes=needed,
            free_bytes=prepared.files.free_bytes(),
            seconds=seconds,
            hygiene=inspect(prepared.transfer_set, prepared.scan, _labels(loaded), DECODED),
        )


@dataclass(frozen=True)
class Validation:
    """A recipe without mistakes: its targets' names, what its samples are like, and whether they let it be built."""

    targets: list[str]
    hygiene: Hygiene
    buildable: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self)


def validate(
    recipe: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: bool = False,
) -> Validation:
    """Check a recipe without running a teacher, and look at its samples, at the first `limit` if that is given.

    Callables are imported, weights and sources hashed, the transfer set is opened, its columns are compared, and every
    sample is read and decoded. Raises RecipeError with every problem found.
    """
    with recipe_modules(Path(recipe).parent):
        loaded = load_recipe(recipe, overrides, find_adapter)
        problems: list[str] = []
        names: list[str] = []
        hygiene: Hygiene | None = None
        try:
            names = [t.name for t in build_targets(loaded)]
            load_augmentation(loaded)
        except RecipeError as e:
            problems += e.problems
        try:
            transfer_set = open_transfer_set(loaded, limit)
            with tqdm(total=len(transfer_set), unit=" samples", desc="decoding", disable=not progress) as bar:
                hygiene = inspect(transfer_set, transfer_set.scan(), _labels(loaded), progress=bar.update)
        except (RecipeError, TransferSetError, AlignmentError) as e:
            problems.append(f"transfer_set: {e}")
    if problems or hygiene is None:
        raise RecipeError(problems)
    stops = hygiene.undecodable and loaded.build.on_bad_sample == "stop"
    lacking = set(hygiene.missing) & set(loaded.transfer_set.keep)
    return Validation(names, hygiene, not stops and not lacking)


def _labels(recipe: Recipe) -> dict[str, Callable[[Any], bool]]:
    """Return for each label column whether a value is a class of its tasks, or no label."""
    known: dict[str, list[TaskRecipe]] = {}
    for task in recipe.tasks.values():
        if task.label is not None and task.kind == "classification":
            known.setdefault(task.label, []).append(task)
    return {label: partial(_is_class, tasks) for label, tasks in known.items()}


def _is_class(tasks: Sequence[TaskRecipe], value: Any) -> bool:
    """Whether a label is a class, or none, of all tasks that it is for."""
    numbers = (range(NO_LABEL, task.classes or len(task.labels or ())) for task in tasks)
    return all(
        value in (task.labels or ()) or (isinstance(value, int) and value in there)
        for task, there in zip(tasks, numbers, strict=True)
    )


@dataclass(frozen=True)
class _Tried:
    """What the trial of a teacher says of one target: its codecs, and how many positions a row has."""

    codecs: list[CodecTrial]
    positions: float


def _target_plan(prepared: Prepared, name: str, units: list[Unit], tried: _Tried | None) -> TargetPlan:
    rows, positions = sum(u.fragment.rows for u in units), 1.0 if tried is None else tried.positions
    size = estimated_bytes(units, prepared.kept_bytes, positions)
    return TargetPlan(name, rows, len(units), size, [] if tried is None else tried.codecs)


def _try_teachers(prepared: Prepared) -> tuple[float, dict[str, _Tried]]:
    """Return the estimated seconds of all teachers, and what their targets would be."""
    seconds, found = 0.0, dict[str, _Tried]()
    samples = make_samples(prepared, {})
    for name, jobs in teacher_jobs(prepared).items():
        own, tried = _try_teacher(prepared, name, jobs, samples)
        seconds, found = seconds + own, found | tried
    return seconds, found


def _try_teacher(prepared: Prepared, name: str, jobs: list[Job], samples: Samples) -> tuple[float, dict[str, _Tried]]:
    """Return the same of one teacher, of which nothing is left afterwards."""
    with teacher_runner(prepared, name, samples) as runner:
        targets = {t.name: with_trial_table(runner, t, jobs) for job in jobs for t in job.targets}
        jobs = [replace(job, targets=[targets[t.name] for t in job.targets]) for job in jobs]
        each, positions = _time(runner, jobs, prepared.recipe.build.batch_size)
        found = {}
        for target in targets.values():
            own = [job for job in jobs if target in job.targets]
            items = int(positions[target.name] * sum(job.fragment.rows for job in own))
            found[target.name] = _Tried(try_codecs(runner, target, own, items), positions[target.name])
        return each * sum(job.fragment.rows for job in jobs), found


def _time(runner: Runner, jobs: list[Job], batch_size: int) -> tuple[float, dict[str, float]]:
    """Return the seconds a sample takes, from up to 64 after one batch to warm up, and each target's items a row."""
    batches = [
        (job, list(range(begin, min(begin + batch_size, job.fragment.rows))))
        for job in jobs[:SAMPLES]
        for begin in range(0, min(job.fragment.rows, SAMPLES), batch_size)
    ]
    runner.predict_rows(*batches[0])
    started, tried, items = time.perf_counter(), 0, dict[str, int]()
    for job, rows in batches:
        if tried >= SAMPLES:
            break
        for target, answers in runner.predict_rows(job, rows).items():
            there = len(rows) if not answers.target.task.is_list else answers.items
            items[target] = items.get(target, 0) + there
        tried += len(rows)
    return (time.perf_counter() - started) / tried, {target: count / tried for target, count in items.items()}
