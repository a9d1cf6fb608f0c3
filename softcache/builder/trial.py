"""`softcache plan` and `softcache validate`: what a build would do and cost, without building."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from softcache.builder.estimate import check_space, estimated_bytes
from softcache.builder.executor import Prepared, make_runner, prepare, teacher_jobs
from softcache.builder.planning import open_transfer_set
from softcache.builder.targets import build_targets
from softcache.builder.units import Unit
from softcache.errors import RecipeError, TransferSetError
from softcache.recipe import load_recipe
from softcache.transfer.python import recipe_modules

SAMPLES = 64


@dataclass(frozen=True)
class TargetPlan:
    """What is left to do for one target (or `rows`): rows, fragments, and about how many bytes."""

    name: str
    rows: int
    fragments: int
    bytes: int


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
    loaded = load_recipe(recipe, overrides)
    with recipe_modules(loaded.folder):
        prepared = prepare(loaded, output, limit=limit, write=False)
        by_name: dict[str, list[Unit]] = {}
        for unit in prepared.todo:
            by_name.setdefault(unit.name, []).append(unit)
        targets = [
            TargetPlan(
                name, sum(u.fragment.rows for u in units), len(units), estimated_bytes(units, prepared.kept_bytes)
            )
            for name, units in by_name.items()
        ]
        needed = sum(t.bytes for t in targets)
        check_space(prepared.files, needed)
        return BuildPlan(
            path=prepared.files.url,
            samples=len(prepared.transfer_set),
            fragments=len(prepared.work.positions),
            targets=targets,
            bytes=needed,
            free_bytes=prepared.files.free_bytes(),
            seconds=_trial(prepared),
        )


def validate(recipe: str | os.PathLike[str], overrides: Sequence[str] = ()) -> list[str]:
    """Check a recipe without running a teacher; return its targets' names.

    Callables are imported, weights and sources hashed, the transfer set opened and its columns compared. Raises
    RecipeError with every problem found.
    """
    loaded = load_recipe(recipe, overrides)
    with recipe_modules(loaded.folder):
        problems: list[str] = []
        names: list[str] = []
        try:
            names = [t.name for t in build_targets(loaded)]
        except RecipeError as e:
            problems += e.problems
        try:
            open_transfer_set(loaded)
        except (RecipeError, TransferSetError) as e:
            problems.append(f"transfer_set: {e}")
    if problems:
        raise RecipeError(problems)
    return names


def _trial(prepared: Prepared) -> float:
    """Return the estimated seconds of all teachers, from up to 64 samples each, after one batch to warm up."""
    seconds = 0.0
    for name, jobs in teacher_jobs(prepared).items():
        runner, size = make_runner(prepared, name), prepared.recipe.build.batch_size
        batches = [
            (job, list(range(begin, min(begin + size, job.fragment.rows))))
            for job in jobs[:SAMPLES]
            for begin in range(0, min(job.fragment.rows, SAMPLES), size)
        ]
        runner.predict_rows(*batches[0])
        started, tried = time.perf_counter(), 0
        for job, rows in batches:
            if tried < SAMPLES:
                runner.predict_rows(job, rows)
                tried += len(rows)
        seconds += (time.perf_counter() - started) / tried * sum(j.fragment.rows for j in jobs)
    return seconds
