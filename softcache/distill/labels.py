"""Hard labels: one class for each row, a distribution, or one label for each class; and those that are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.errors import TaskError
from softcache.tasks import TaskSpec

NO_CLASS = -100  # what torch's cross-entropy ignores


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read: the arguments of `distillation_loss` of the same names."""

    ignore_index: int
    smoothing: float
    class_weights: torch.Tensor | None

    def check(self, task: TaskSpec) -> None:
        """Raise TaskError for a smoothing outside [0, 1), or class weights that do not fit the task."""
        if not 0 <= self.smoothing < 1:
            raise TaskError(f"label_smoothing is {self.smoothing}; expected a number from 0 to below 1")
        given = self.class_weights
        if given is not None and (list(given.shape) != [task.label_space] or not given.is_floating_point()):
            raise TaskError(
                f"class_weights are {given.dtype} {list(given.shape)}; expected floating-point values "
                f"[{task.label_space}], one for each class"
            )


@dataclass(frozen=True, kw_only=True)
class HardLabels:
    """The labels of R rows.

    Attributes:
        values: int64 [R] class numbers, `NO_CLASS` where there is none; or float32 [R, C]: a distribution over the
            classes, or with sigmoid a label from 0 to 1 for each class. 0 where there is none.
        there: bool [R], or with sigmoid [R, C]: which labels count.
        problem: whether any label that counts is invalid, a bool tensor, so that no device has to wait for it.
        explain: says what is wrong.
        sigmoid: whether each class has a label of its own.
        options: how they are read.
    """

    values: torch.Tensor
    there: torch.Tensor
    problem: torch.Tensor
    explain: Callable[[], str]
    sigmoid: bool
    options: LabelOptions

    @property
    def rows(self) -> torch.Tensor:
        """Which rows have a label, bool [R]."""
        return self.there.any(1) if self.there.ndim == 2 else self.there

    @property
    def weights(self) -> torch.Tensor:
        """What each row weighs in the mean, as in torch's `CrossEntropyLoss`: its class's weight, or 1 (bool), [R]."""
        weights = self.options.class_weights
        if weights is None or self.sigmoid or self.values.ndim == 2:
            return self.rows
        classes = self.values.masked_fill(~self.there, 0)
        return torch.where(self.there, weights.to(classes.device, torch.float32)[classes], 0.0)

    def losses(self, logits: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of some rows of logits [r, C], 0 where there is no label: [r]."""
        labels, weights, smoothing = self.values[rows], self.options.class_weights, self.options.smoothing
        weights = None if weights is None else weights.to(logits)
        if self.sigmoid:
            smoothed = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
            found = F.binary_cross_entropy_with_logits(logits, smoothed, weight=weights, reduction="none")
            return torch.where(self.there[rows], found, 0.0).sum(1)
        if labels.ndim == 2:
            labels = labels.to(logits.dtype)
        found = F.cross_entropy(
            logits, labels, weights, ignore_index=NO_CLASS, label_smoothing=smoothing, reduction="none"
        )
        return found if labels.ndim == 1 else torch.where(self.there[rows], found, 0.0)


def read_labels(
    labels: torch.Tensor, task: TaskSpec, shape: torch.Size, counts: torch.Tensor, options: LabelOptions
) -> HardLabels:
    """Return labels in one line, for logits of `shape` [..., C] of which `counts` ([R], or with sigmoid [R, C]) count.

    Raises TaskError for a dtype or shape that does not fit.
    """
    options.check(task)
    each, given = task.activation == "sigmoid", list(labels.shape)
    if task.is_map and labels.ndim == len(shape):
        labels = labels.movedim(1, -1)
    as_classes = (
        not each and labels.shape == shape[:-1] and not labels.is_floating_point() and labels.dtype != torch.bool
    )
    as_numbers = labels.shape == shape and (each or labels.is_floating_point())
    if not (as_classes or as_numbers):
        numbers = f"numbers from 0 to 1 {list(shape)}, classes last"
        expected = numbers if each else f"integers {list(shape[:-1])}, or {numbers}"
        raise TaskError(f"labels are {labels.dtype} {given}; expected {expected}")
    labels = labels.to(counts.device)
    if as_classes:
        return _classes(labels.reshape(-1).long(), shape[-1], counts, options)
    return _numbers(labels.flatten(0, -2), counts, options, each)


def _classes(labels: torch.Tensor, classes: int, counts: torch.Tensor, options: LabelOptions) -> HardLabels:
    there = counts & (labels != options.ignore_index)

    def explain() -> str:
        lowest, highest = int(labels[there].min()), int(labels[there].max())
        hint = f"; if {lowest} marks a missing label, give ignore_index={lowest}" if lowest < 0 else ""
        return (
            f"labels go from {lowest} to {highest}; expected 0 to {classes - 1}, or ignore_index "
            f"({options.ignore_index}) where there is none{hint}"
        )

    return HardLabels(
        values=torch.where(there, labels, NO_CLASS),
        there=there,
        problem=(there & (labels != labels.clamp(0, classes - 1))).any(),
        explain=explain,
        sigmoid=False,
        options=options,
    )


def _numbers(labels: torch.Tensor, counts: torch.Tensor, options: LabelOptions, each: bool) -> HardLabels:
    missing = labels.isnan() if labels.is_floating_point() else labels == options.ignore_index
    labels = labels.float()
    there = (counts if counts.ndim == 2 else counts[:, None]) & ~missing
    wrong = there & ~((labels >= 0) & (labels <= 1))
    values = labels.masked_fill(~there, 0.0)
    if each:
        problem = wrong.any()
    else:
        # A distribution is there as a whole, or not at all.
        partly, there = there.any(1) & ~there.all(1), there.all(1)
        values = values.masked_fill(~there[:, None], 0.0)
        problem = wrong.any() | partly.any() | (there & ((values.sum(1) - 1).abs() > 1e-3)).any()

    def explain() -> str:
        if each or bool(wrong.any()):
            given = labels[~missing]
            return (
                f"labels go from {float(given.min())} to {float(given.max())}; expected 0 to 1, NaN where there is none"
            )
        return "the labels of a row are a distribution over the classes: they must add up to 1, or all be NaN"

    return HardLabels(values=values, there=there, problem=problem, explain=explain, sigmoid=each, options=options)
