"""What the losses on numbers without a temperature share: rows that count, sizes of maps, reductions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.distill.checks import check_choice
from softcache.errors import TaskError
from softcache.soft.protocol import Soft

RESIZES = ("bilinear", "area")


def check_resize(resize: str | None, soft: Soft) -> None:
    """Raise TaskError if `resize` is no way to resize maps, or if the target has no maps."""
    if resize is None:
        return
    check_choice("resize", resize, RESIZES)
    if len(soft.task.shape) != 3:
        raise TaskError(
            f"resize={resize!r} is for maps [C, H, W], and the target's shape is {list(soft.task.shape)}; leave it out"
        )


def student_rows(student: torch.Tensor, soft: Soft) -> torch.Tensor:
    """Return a student's numbers [B, ...] as float32, or float64 if they are, 0 in rows without an answer.

    Such a row gets no gradient either, whatever its numbers are. Raises TaskError.
    """
    if not isinstance(student, torch.Tensor):
        raise TaskError(f"the student's numbers are a {type(student).__name__}; expected a tensor")
    if not student.is_floating_point() or student.ndim < 2 or len(student) != len(soft) or 0 in student.shape[1:]:
        raise TaskError(
            f"the student's numbers are {student.dtype} {list(student.shape)}; expected floating-point values "
            f"[{len(soft)}, ...], a row for each of the teacher's"
        )
    return _counted(student if student.dtype == torch.float64 else student.float(), soft)


def teacher_rows(soft: Soft, dtype: torch.dtype) -> torch.Tensor:
    """Return the teacher's numbers [B, *task.shape] in a dtype, 0 in rows without an answer."""
    return _counted(soft.values.to(dtype), soft)


def resized(maps: torch.Tensor, size: Sequence[int], resize: str | None) -> torch.Tensor:
    """Return a student's maps [B, C, H', W'] in the teacher's size. Raises TaskError if `resize` does not say how."""
    if list(maps.shape[2:]) == list(size):
        return maps
    if resize is None:
        ours, theirs = (" x ".join(map(str, s)) for s in (maps.shape[2:], size))
        raise TaskError(
            f"the student's maps are {ours}, the teacher's {theirs}; give resize='bilinear' or resize='area' to resize "
            "the student's"
        )
    return F.interpolate(maps, tuple(size), mode=resize)


def reduced(losses: torch.Tensor, soft: Soft, reduction: str) -> torch.Tensor:
    """Return the losses of the rows [B], or their sum or mean over the rows with an answer."""
    losses = torch.where(soft.mask, losses, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / soft.mask.sum().clamp(min=1)


def _counted(numbers: torch.Tensor, soft: Soft) -> torch.Tensor:
    return torch.where(soft.mask.view(-1, *(1,) * (numbers.ndim - 1)), numbers, 0.0)
