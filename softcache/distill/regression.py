"""The loss for numbers without a temperature: regression, and hints from intermediate features."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.errors import TaskError
from softcache.soft.protocol import Soft

DISTANCES = ("squared", "absolute", "cosine")
REDUCTIONS = ("mean", "sum", "none")


def regression_loss(
    student: torch.Tensor, soft: Soft, distance: str = "squared", reduction: str = "mean"
) -> torch.Tensor:
    """Return how far a student's numbers are from the teacher's, for regression and for hints.

    For features it is the hint loss of FitNets (Romero et al. 2015, eq. 3, without its factor 1/2). If the student's
    features have another shape, first pass them through a regressor that is trained with the student.

    Args:
        student: [B, *task.shape], on any device; the soft targets are moved there.
        soft: the teacher's rows; rows without an answer do not count.
        distance: `squared` is the mean over a row's numbers of the squared differences, divided by the teacher's
            variance if there is one (Kendall and Gal 2017, eq. 8, with the teacher's variance); `absolute` that of the
            absolute differences; `cosine` is 1 minus the cosine over the first axis of the shape, averaged over the
            other axes.
        reduction: `mean` over the rows that count (0 if none does), `sum`, or `none` for one loss each, [B], 0 where a
            row does not count.

    Raises:
        TaskError: shapes that disagree, an unknown distance or reduction, a target that has a temperature.

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
    if distance not in DISTANCES:
        raise TaskError(f"distance is {distance!r}; expected one of {', '.join(DISTANCES)}")
    if reduction not in REDUCTIONS:
        raise TaskError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if list(student.shape) != [len(soft), *task.shape] or not student.is_floating_point():
        raise TaskError(
            f"the student's numbers are {student.dtype} {list(student.shape)}; expected floating-point values "
            f"{[len(soft), *task.shape]}; nothing is broadcast"
        )
    soft = soft.to(student.device)
    ours = student if student.dtype == torch.float64 else student.float()
    # A row that does not count must get no gradient either, whatever its numbers are.
    ours = torch.where(soft.mask.view(-1, *(1,) * len(task.shape)), ours, 0.0)
    theirs = soft.values.to(ours.dtype).nan_to_num(0.0)
    if distance == "cosine":
        losses = (1 - F.cosine_similarity(ours, theirs, dim=1)).reshape(len(soft), -1).mean(1)
    else:
        apart = (ours - theirs).square() if distance == "squared" else (ours - theirs).abs()
        if distance == "squared" and "variance" in task.parts:
            apart = apart / soft.parts["variance"].to(ours.dtype).nan_to_num(1.0)
        losses = apart.reshape(len(soft), -1).mean(1)
    losses = torch.where(soft.mask, losses, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / soft.mask.sum().clamp(min=1)
