"""`softcache evaluate`: which of a recipe's teachers is worth building with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from softcache.builder.jobs import Job
from softcache.builder.labels import right_values
from softcache.builder.memory import PeakMemory
from softcache.builder.metrics import Metrics, measure
from softcache.builder.pipeline import Runner
from softcache.builder.planning import open_transfer_set, teacher_reads
from softcache.builder.preparing import load_teacher
from softcache.builder.samples import Samples
from softcache.builder.targets import BuildTarget, build_targets
from softcache.codecs.base import as_logits
from softcache.errors import RecipeError
from softcache.recipe import Recipe, load_recipe
from softcache.store.plan import Fragment
from softcache.teachers import find_adapter
from softcache.transfer import TransferSet
from softcache.transfer.python import recipe_modules

DEFAULT_LIMIT = 10_000
ALL_TOGETHER = "all together"


@dataclass(frozen=True)
class Candidate:
    """A teacher, or all that answer a task together, and what it was measured to be.

    Attributes:
        task: the recipe's name of the task.
        teacher: the teacher's name, `all together` for the mean of their distributions at T = 1.
        samples: how many labelled samples it answered.
        metrics: see `builder.metrics`.
        samples_per_second: preprocessing and answering, one after the other, after a first batch. None for all.
        parameters: how many it has, None where that is not known.
        memory_bytes: by how much the process, on a GPU what is allocated there, grew at most. None where not known.
    """

    task: str
    teacher: str
    samples: int
    metrics: Metrics
    samples_per_second: float | None
    parameters: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Evaluation:
    """What candidates are worth, and what was left out, and why."""

    path: str
    candidates: list[Candidate]
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self)


def evaluate(
    recipe: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int = DEFAULT_LIMIT,
    progress: bool = False,
) -> Evaluation:
    """Compare a recipe's teachers on up to `limit` labelled samples, evenly over the transfer set. Builds nothing.

    Measured are classification tasks with a `label`, on samples as they are, without augmentation. Raises RecipeError
    where there is none, or no sample has a label, MissingExtra without torchmetrics, and what a build would raise.
    """
    if limit < 1:
        raise RecipeError(f"limit is {limit}; expected at least 1")
    with recipe_modules(Path(recipe).parent):
        loaded = load_recipe(recipe, overrides, find_adapter)
        targets = build_targets(loaded)
        chosen = [t for t in targets if _why_not(t) is None]
        left_out = {t.name: why for t in targets if (why := _why_not(t)) is not None}
        if not chosen:
            raise RecipeError("no classification task has a label; set tasks.*.label to a kept column")
        transfer_set = open_transfer_set(loaded)
        positions = np.unique(np.linspace(0, len(transfer_set) - 1, min(limit, len(transfer_set))).astype(np.int64))
        job = _job(transfer_set, positions)
        found, logits = list[Candidate](), dict[str, tuple[BuildTarget, torch.Tensor, torch.Tensor]]()
        for name in dict.fromkeys(t.teacher for t in chosen):
            own = [t for t in chosen if t.teacher == name]
            for target, candidate, values, truth in _candidates(loaded, name, own, transfer_set, job, progress):
                found.append(candidate)
                logits[target.name] = (target, values, truth)
        found += _together(loaded, list(logits.values()))
    order = list(loaded.tasks)
    return Evaluation(str(recipe), sorted(found, key=lambda c: order.index(c.task)), left_out)


def _why_not(target: BuildTarget) -> str | None:
    """Return why a target cannot be compared with labels, None if it can."""
    if target.task.kind != "classification":
        return f"{target.task.kind}: only classification is compared with labels"
    if not target.codec.sees_logits:
        return "the teacher gives hidden states; name a task that stores logits"
    return "it has no label" if target.label is None else None


def _job(transfer_set: TransferSet, positions: np.ndarray[Any, Any]) -> Job:
    """Return the samples as one piece of work; they are named by their positions."""
    contents = np.zeros((len(positions), 32), np.uint8)
    return Job(Fragment.of(0, transfer_set.split, pa.array(positions), contents), positions, [])


def _candidates(
    recipe: Recipe, name: str, targets: list[BuildTarget], transfer_set: TransferSet, job: Job, progress: bool
) -> Iterator[tuple[BuildTarget, Candidate, torch.Tensor, torch.Tensor]]:
    """Yield what a teacher is worth for each of its targets, its logits [n, C] and the right values [n]."""
    labels = {t.name: _truth(t, transfer_set, job) for t in targets}
    with PeakMemory(recipe.build.device) as memory:
        teacher = load_teacher(recipe, name)
        reads = teacher_reads(recipe, name, transfer_set)
        runner = Runner(name, teacher, Samples(transfer_set), reads, recipe.build.batch_size, skip_bad=True)
        rows, values, seconds = _answers(runner, targets, job, progress)
    count = getattr(teacher, "parameter_count", None)
    for target in targets:
        truth = labels[target.name][rows[target.name]]
        has_label = truth >= 0
        if not has_label.any():
            raise RecipeError(f"tasks: no sample has a label of {target.name} (column {target.label!r})")
        logits, right = values[target.name][torch.from_numpy(has_label)], torch.from_numpy(truth[has_label])
        candidate = Candidate(
            task=recipe.targets()[target.name][0],
            teacher=name,
            samples=len(right),
            metrics=measure(logits, right),
            samples_per_second=seconds and len(job.positions) / seconds,
            parameters=count() if callable(count) else None,
            memory_bytes=memory.grown,
        )
        yield target, candidate, logits, right


def _truth(target: BuildTarget, transfer_set: TransferSet, job: Job) -> np.ndarray[Any, Any]:
    labels = transfer_set.stored(job.positions, [str(target.label)])[str(target.label)].to_pylist()
    truth = right_values(target.task, labels)
    if truth is None:
        raise RecipeError(f"{target.name}: column {target.label!r} has neither numbers nor names of classes")
    return truth


def _answers(
    runner: Runner, targets: list[BuildTarget], job: Job, progress: bool
) -> tuple[dict[str, list[int]], dict[str, torch.Tensor], float | None]:
    """Return for each target which samples were answered and their logits, and the seconds that all samples take.

    The seconds are those of all batches but the first, for as many samples; None where there is one batch.
    """
    rows: dict[str, list[int]] = {t.name: [] for t in targets}
    values: dict[str, list[torch.Tensor]] = {t.name: [] for t in targets}
    began, timed, seen = 0.0, 0.0, 0
    with tqdm(total=len(job.positions), unit=" samples", desc="softcache evaluate", disable=not progress) as bar:
        for batch, answers in runner.answers(targets, job):
            for target in targets:
                if target.name in answers:
                    rows[target.name] += batch.rows
                    values[target.name].append(as_logits(answers[target.name], target.task).cpu())
            bar.update(batch.size)
            if began:
                timed, seen = time.perf_counter() - began, seen + batch.size
            else:
                began = time.perf_counter()
    empty = [t.name for t in targets if not values[t.name]]
    if empty:
        raise RecipeError(f"{', '.join(empty)}: none of the samples can be read")
    seconds = timed / seen * len(job.positions) if seen else None
    return rows, {name: torch.cat(found) for name, found in values.items()}, seconds


def _together(recipe: Recipe, found: list[tuple[BuildTarget, torch.Tensor, torch.Tensor]]) -> Iterator[Candidate]:
    """Yield what the teachers of one task, all of which know all classes, are worth together (Hinton et al. 2015)."""
    by_task: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for target, logits, right in found:
        if target.task.known is None:
            by_task.setdefault(recipe.targets()[target.name][0], []).append((logits, right))
    for task, members in by_task.items():
        right = members[0][1]
        if len(members) < 2 or any(len(r) != len(right) for _, r in members):
            continue
        mean = torch.stack([logits.log_softmax(1) for logits, _ in members]).logsumexp(0)
        yield Candidate(task, ALL_TOGETHER, len(right), measure(mean, right), None, None, None)
