"""`softcache plan`: a forecast of what a build would do and cost, from a trial of its teachers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from softcache.assess.codecs import CodecTrial, try_codecs, with_trial_table
from softcache.assess.validate import label_checks
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.opening import make_samples, opened_predictor, teacher_jobs
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.samples import Samples
from softcache.builder.answer.sampling import answer_rows
from softcache.builder.prepare.opened_recipe import opened_recipe
from softcache.builder.prepare.prepared import PreparedBuild, prepare
from softcache.builder.prepare.space import check_space, estimated_bytes
from softcache.builder.prepare.units import Unit
from softcache.transfer.hygiene import Hygiene, inspect

SAMPLES = 64
DECODED = 1000


@dataclass(frozen=True, kw_only=True)
class TargetForecast:
    """What is left to do for one target (or for `rows`): rows, fragments, and an estimate of the bytes.

    `codecs` says how many bytes the target would take in other codecs, and how large their errors would be. It is empty
    for features.
    """

    name: str
    rows: int
    fragments: int
    bytes: int
    codecs: list[CodecTrial]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a build would do.

    Attributes:
        path: the cache's folder or URL.
        samples: how many samples the transfer set has.
        fragments: into how many fragments they are divided.
        targets: what is left to do for each target.
        bytes: an estimate of the bytes that will be written.
        free_bytes: the free space in bytes; None if the storage has no known limit.
        seconds: an estimate of how long the teachers will run, from a trial.
        hygiene: what was found in the samples.
    """

    path: str
    samples: int
    fragments: int
    targets: list[TargetForecast]
    bytes: int
    free_bytes: int | None
    seconds: float
    hygiene: Hygiene

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as a JSON object."""
        return asdict(self)


def plan(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
) -> Forecast:
    """Return what building a recipe into `output` would do, after a trial of each teacher on 64 samples.

    Writes nothing. Raises StorageError if the build would not fit, and any error that the build would raise before its
    teachers run, or that occurs in the trial.

    Examples:
        >>> forecast = softcache.plan("recipes/digits/recipe.yaml", "runs/other")
        >>> forecast.samples, [target.name for target in forecast.targets][:2]
        (1797, ['rows', 'digit@a'])
    """
    with opened_recipe(recipe, overrides) as loaded:
        prepared = prepare(loaded, output, limit=limit, write=False)
        by_name: dict[str, list[Unit]] = {}
        for unit in prepared.todo:
            by_name.setdefault(unit.name, []).append(unit)
        seconds, tried = _try_teachers(prepared)
        targets = [_target_forecast(prepared, name, units, tried.get(name)) for name, units in by_name.items()]
        needed = sum(t.bytes for t in targets)
        check_space(prepared.files, needed)
        return Forecast(
            path=prepared.files.url,
            samples=len(prepared.transfer_set),
            fragments=len(prepared.work.positions),
            targets=targets,
            bytes=needed,
            free_bytes=prepared.files.free_bytes(),
            seconds=seconds,
            hygiene=inspect(prepared.transfer_set, prepared.scan, label_checks(loaded), DECODED),
        )


@dataclass(frozen=True)
class _Tried:
    """What a teacher's trial says about one target: trials of codecs, and the mean number of positions in a row."""

    codecs: list[CodecTrial]
    positions: float


def _target_forecast(prepared: PreparedBuild, name: str, units: list[Unit], tried: _Tried | None) -> TargetForecast:
    positions = 1.0 if tried is None else tried.positions
    return TargetForecast(
        name=name,
        rows=sum(u.fragment.rows for u in units),
        fragments=len(units),
        bytes=estimated_bytes(units, prepared.kept_bytes, positions),
        codecs=[] if tried is None else tried.codecs,
    )


def _try_teachers(prepared: PreparedBuild) -> tuple[float, dict[str, _Tried]]:
    """Return the estimated seconds for all teachers, and the trials of their targets by name."""
    seconds, found = 0.0, dict[str, _Tried]()
    samples = make_samples(prepared)
    for name, jobs in teacher_jobs(prepared).items():
        own, tried = _try_teacher(prepared, name, jobs, samples)
        seconds, found = seconds + own, found | tried
    return seconds, found


def _try_teacher(
    prepared: PreparedBuild, name: str, jobs: list[Job], samples: Samples
) -> tuple[float, dict[str, _Tried]]:
    """Return the same for one teacher, which is closed afterwards."""
    with opened_predictor(prepared, name, samples) as predictor:
        targets = {t.name: with_trial_table(predictor, t, jobs) for job in jobs for t in job.targets}
        jobs = [replace(job, targets=[targets[t.name] for t in job.targets]) for job in jobs]
        each, positions = _time(predictor, jobs)
        found = {}
        for target in targets.values():
            own = [job for job in jobs if target in job.targets]
            items = int(positions[target.name] * sum(job.fragment.rows for job in own))
            found[target.name] = _Tried(try_codecs(predictor, target, own, items), positions[target.name])
        return each * sum(job.fragment.rows for job in jobs), found


def _time(predictor: Predictor, jobs: list[Job]) -> tuple[float, dict[str, float]]:
    """Return the seconds that a sample takes, and each target's items per row, measured on about 64 samples.

    One batch runs before that to warm up.
    """
    batches = [(job, rows) for job in jobs[:SAMPLES] for rows in predictor.cuts(job) if rows[0] < SAMPLES]
    answer_rows(predictor, *batches[0])
    started, tried, items = time.perf_counter(), 0, dict[str, int]()
    for job, rows in batches:
        if tried >= SAMPLES:
            break
        for target, answers in answer_rows(predictor, job, rows).items():
            count = len(rows) if not answers.target.task.is_list else answers.items
            items[target] = items.get(target, 0) + count
        tried += len(rows)
    return (time.perf_counter() - started) / tried, {target: count / tried for target, count in items.items()}
