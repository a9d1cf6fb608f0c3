"""`softcache evaluate`: which of a recipe's teachers are worth building with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from softcache.arrays import Array
from softcache.assess.memory import PeakMemory
from softcache.assess.metrics import Metrics, measure
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.opening import loaded_teacher
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.samples import Samples
from softcache.builder.answer.sampling import checked_batches
from softcache.builder.prepare.opened_recipe import opened_recipe
from softcache.builder.prepare.targets import BuildTarget, build_targets
from softcache.builder.prepare.transfer_set import open_transfer_set, teacher_reads
from softcache.codecs.logits import as_logits
from softcache.errors import RecipeError, TeacherError
from softcache.recipe import Recipe
from softcache.store.keys import id_array
from softcache.store.plan import Fragment
from softcache.transfer import TransferSet
from softcache.transfer.labels import names_of_values, right_values

DEFAULT_LIMIT = 10_000
ALL_TOGETHER = "all together"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The measurements of one teacher, or of all teachers of a task together.

    Attributes:
        task: the task's name in the recipe.
        teacher: the teacher's name, or `all together` for the mean of the teachers' distributions at T = 1.
        samples: how many labelled samples have an answer that can be stored.
        without_answer: how many labelled samples have no answer, or one that cannot be stored.
        metrics: see `assess.metrics`.
        samples_per_second: the speed of preprocessing, then answering, measured after a first batch. None for all
            together, and if there is only one batch.
        parameters: how many parameters the teacher has; None if unknown.
        memory_bytes: by how many bytes the process grew at most, or on a GPU, the memory allocated there. None if
            unknown.
    """

    task: str
    teacher: str
    samples: int
    without_answer: int
    metrics: Metrics
    samples_per_second: float | None
    parameters: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Evaluation:
    """The measured candidates, and the reason for each target that was left out."""

    path: str
    candidates: list[Candidate]
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as a JSON object."""
        return asdict(self)


def evaluate(
    recipe: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int = DEFAULT_LIMIT,
    progress: bool = False,
) -> Evaluation:
    """Compare a recipe's teachers on up to `limit` samples, spread evenly over the transfer set. Builds nothing.

    Only classification tasks with a `label` are measured, on the samples as they are, without augmentation. Raises
    RecipeError if there is no such task or no sample has a label, MissingExtra without torchmetrics, and what a build
    would raise.

    Examples:
        >>> evaluation = softcache.evaluate("recipes/digits/recipe.yaml", limit=100)
        >>> [candidate.teacher for candidate in evaluation.candidates]
        ['a', 'b', 'c', 'all together']
        >>> best = max(evaluation.candidates, key=lambda candidate: candidate.metrics.accuracy)
    """
    if limit < 1:
        raise RecipeError(f"limit is {limit}; expected at least 1")
    with opened_recipe(recipe, overrides) as loaded:
        targets = build_targets(loaded)
        chosen = [t for t in targets if _why_not(t) is None]
        left_out = {t.name: why for t in targets if (why := _why_not(t)) is not None}
        if not chosen:
            raise RecipeError("no classification task has a label; set tasks.*.label to a column in transfer_set.keep")
        transfer_set = open_transfer_set(loaded)
        positions = np.unique(np.linspace(0, len(transfer_set) - 1, min(limit, len(transfer_set))).astype(np.int64))
        job = _job(transfer_set, positions)
        found, answered = list[Candidate](), list[_Answered]()
        for name in dict.fromkeys(t.teacher for t in chosen):
            own = [t for t in chosen if t.teacher == name]
            for candidate, answers in _candidates(loaded, name, own, transfer_set, job, progress):
                found.append(candidate)
                answered.append(answers)
        found += _together(loaded, answered)
    order = list(loaded.tasks)
    return Evaluation(str(recipe), sorted(found, key=lambda c: order.index(c.task)), left_out)


def _why_not(target: BuildTarget) -> str | None:
    """Return why a target cannot be compared with labels; None if it can."""
    if not target.task.traits.has_label:
        return f"{target.task.kind} cannot be compared with labels; only classification can"
    if not target.codec.traits.sees_logits:
        return "the teacher gives hidden states; use a task that stores logits"
    return "its task has no label" if target.label is None else None


def _job(transfer_set: TransferSet, positions: Array) -> Job:
    """Return the samples as one job, named by their ids, or by their positions if the ids are no column."""
    ids = pa.array(positions)
    if (column := transfer_set.id_column) is not None:
        ids = id_array(transfer_set.table(positions, [column])[column])
    contents = np.zeros((len(positions), 32), np.uint8)
    return Job(Fragment.of(0, transfer_set.split, ids, contents), positions, [])


@dataclass(frozen=True, eq=False)
class _Answered:
    """A teacher's answers to labelled samples: rows of the job [n], logits [n, C], and the right values [n]."""

    target: BuildTarget
    rows: Array
    logits: torch.Tensor
    right: torch.Tensor

    def of(self, rows: Array) -> torch.Tensor:
        """Return the logits of some of these rows, in ascending order of the rows."""
        return self.logits[torch.from_numpy(np.isin(self.rows, rows))]


def _candidates(
    recipe: Recipe, name: str, targets: list[BuildTarget], transfer_set: TransferSet, job: Job, progress: bool
) -> Iterator[tuple[Candidate, _Answered]]:
    """Yield, for each target of a teacher, the candidate and the answers."""
    labels = {t.name: _truth(t, transfer_set, job) for t in targets}
    with PeakMemory(recipe.build.device) as memory, loaded_teacher(recipe, name) as teacher:
        predictor = Predictor(
            name=name,
            teacher=teacher,
            samples=Samples(transfer_set),
            reads=teacher_reads(recipe, name, transfer_set),
            batch_size=recipe.build.batch_size,
            skip_bad=True,
        )
        answered, seconds = _answers(predictor, targets, labels, job, progress)
        count = getattr(teacher, "parameter_count", None)
        parameters = count() if callable(count) else None
    for found in answered:
        labelled = int((labels[found.target.name] >= 0).sum())
        if not labelled:
            raise RecipeError(f"no sample has a label for {found.target.name} (column {found.target.label!r})")
        if not len(found.rows):
            raise TeacherError(
                f"{found.target.name}: none of {labelled:,} labelled samples has an answer that can be stored"
            )
        candidate = Candidate(
            task=recipe.targets()[found.target.name][0],
            teacher=name,
            samples=len(found.rows),
            without_answer=labelled - len(found.rows),
            metrics=measure(found.logits, found.right, names_of_values(found.target.task)),
            samples_per_second=seconds and len(job.positions) / seconds,
            parameters=parameters,
            memory_bytes=memory.grown,
        )
        yield candidate, found


def _truth(target: BuildTarget, transfer_set: TransferSet, job: Job) -> Array:
    labels = transfer_set.table(job.positions, [str(target.label)])[str(target.label)].to_pylist()
    truth = right_values(target.task, labels)
    if truth is None:
        raise RecipeError(f"{target.name}: column {target.label!r} holds neither class numbers nor class names")
    return truth


def _answers(
    predictor: Predictor, targets: list[BuildTarget], labels: dict[str, Array], job: Job, progress: bool
) -> tuple[list[_Answered], float | None]:
    """Return the answers to labelled samples, and the seconds that all samples take.

    An answer that a build would not store does not count. The seconds are extrapolated from all batches but the first;
    None if there is only one batch.
    """
    rows: dict[str, list[int]] = {t.name: [] for t in targets}
    logits = {t.name: [torch.empty(0, t.task.shape[0])] for t in targets}
    began, timed, seen = 0.0, 0.0, 0
    with tqdm(total=len(job.positions), unit=" samples", desc="softcache evaluate", disable=not progress) as bar:
        for batch, answers in checked_batches(predictor, targets, job):
            for target in targets if answers else ():
                values, truth = answers[target.name], labels[target.name]
                faults = target.codec.faults(values)
                good = [i for i, row in enumerate(batch.rows) if i not in faults and truth[row] >= 0]
                rows[target.name] += [batch.rows[i] for i in good]
                logits[target.name].append(as_logits(values[good], target.task).cpu())
            bar.update(batch.size)
            if began:
                timed, seen = time.perf_counter() - began, seen + batch.size
            else:
                began = time.perf_counter()
    found = []
    for target in targets:
        own = np.array(rows[target.name], np.int64)
        right = torch.from_numpy(labels[target.name][own])
        found.append(_Answered(target, own, torch.cat(logits[target.name]), right))
    return found, timed / seen * len(job.positions) if seen else None


def _together(recipe: Recipe, answered: list[_Answered]) -> Iterator[Candidate]:
    """Yield one candidate for each task's teachers together (Hinton et al. 2015), those that know all classes.

    It is measured on the samples that all of them answer.
    """
    by_task: dict[str, list[_Answered]] = {}
    for found in answered:
        if found.target.task.known is None:
            by_task.setdefault(recipe.targets()[found.target.name][0], []).append(found)
    for task, members in by_task.items():
        rows = reduce(np.intersect1d, [member.rows for member in members])
        if len(members) < 2 or not len(rows):
            continue
        mean = torch.stack([member.of(rows).log_softmax(1) for member in members]).logsumexp(0)
        right = members[0].right[torch.from_numpy(np.isin(members[0].rows, rows))]
        names = names_of_values(members[0].target.task)
        left_out = len(reduce(np.union1d, [member.rows for member in members])) - len(rows)
        yield Candidate(
            task=task,
            teacher=ALL_TOGETHER,
            samples=len(rows),
            without_answer=left_out,
            metrics=measure(mean, right, names),
            samples_per_second=None,
            parameters=None,
            memory_bytes=None,
        )
