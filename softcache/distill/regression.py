"""The loss for numbers without a temperature: regression, and hints from intermediate features."""

from __future__ import annotations

import torch

from softcache.distill.checks import REDUCTIONS, check_choice
from softcache.distill.feature_rows import (
    check_resize,
    reduced,
    resized,
    student_rows,
    teacher_rows,
)
from softcache.distill.scale import unit
from softcache.errors import TaskError
from softcache.soft.protocol import Soft

DISTANCES = ("squared", "absolute", "cosine")


def regression_loss(
    student: torch.Tensor, soft: Soft, distance: str = "squared", reduction: str = "mean", *, resize: str | None = None
) -> torch.Tensor:
    """Return how far a student's numbers are from the teacher's, for regression and for hints.

    For features the squared distance is the hint loss of FitNets (Romero et al. 2015, eq. 3), as a mean over the
    numbers of a row rather than half their sum. If the student's features have another number of channels, first pass
    them through a `Projection`, which is trained with the student.

    Args:
        student: [B, *task.shape], on any device; the soft targets are moved there. float64 is kept, anything else is
            computed in float32. Maps can have another size if `resize` is given.
        soft: the teacher's rows; rows without an answer do not count.
        distance: `squared` is the mean over a row's numbers of the squared differences, divided by the teacher's
            variance if there is one (Kendall and Gal 2017, eq. 8, with the teacher's variance, without the factor 1/2
            and the term that does not depend on the student); `absolute` that of the absolute differences; `cosine` is
            1 minus the cosine over the first axis of the shape, averaged over the other axes. The cosine with a vector
            of zeros is 0, without a gradient.
        reduction: `mean` over the rows that count (0 if none does), `sum`, or `none` for one loss each, [B], 0 where a
            row does not count.
        resize: how to resize a student's maps [B, C, H', W'] to the target's [C, H, W]: `area` averages the places that
            fall into one, `bilinear` looks at the nearest four only, so prefer `area` to make maps smaller. None if
            they have that size.

    Raises:
        TaskError: shapes that disagree, maps of different sizes without `resize`, an unknown distance, reduction or
            resize, a target that has a temperature.

    Examples:
        >>> soft = softcache.open("runs/digits")["embedding@a"].lookup([0, 1, 2])
        >>> features = torch.zeros(3, 64, requires_grad=True)
        >>> softcache.regression_loss(features, soft, distance="squared").backward()
        >>> float(softcache.regression_loss(soft.values.float(), soft))
        0.0
    """
    task = soft.task
    if task.has_temperature:
        raise TaskError(f"a {task.kind} target has a temperature; use softcache.distillation_loss")
    check_choice("distance", distance, DISTANCES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_resize(resize, soft)
    _check_shape(student, soft)
    soft = soft.to(student.device)
    ours = student_rows(student, soft)
    if len(task.shape) == 3:
        ours = resized(ours, task.shape[1:], resize)
    apart = _apart(ours, teacher_rows(soft, ours.dtype), distance)
    if distance == "squared" and "variance" in task.parts:
        apart = apart / soft.parts["variance"].to(ours.dtype).nan_to_num(1.0)
    return reduced(apart.flatten(1).mean(1), soft, reduction)


def _apart(ours: torch.Tensor, theirs: torch.Tensor, distance: str) -> torch.Tensor:
    """Return the distance of each pair of numbers [B, C, ...], or for `cosine` of each pair of vectors [B, 1, ...]."""
    if distance == "cosine":
        return 1 - (unit(ours, 1) * unit(theirs, 1)).sum(1, keepdim=True)
    return (ours - theirs).square() if distance == "squared" else (ours - theirs).abs()


def _check_shape(student: torch.Tensor, soft: Soft) -> None:
    """Raise TaskError unless the student's shape is the teacher's, up to the size of maps."""
    given, expected = list(student.shape), [len(soft), *soft.task.shape]
    compared = 2 if len(expected) == 4 else len(expected)
    if len(given) != len(expected) or given[:compared] != expected[:compared]:
        raise TaskError(
            f"the student's numbers are {given}; expected {expected}; nothing is broadcast. softcache.Projection "
            "learns to map features to another number of channels"
        )
