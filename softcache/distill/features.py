"""Losses on the features of a layer that compare what follows from them: where they are strong, which samples agree."""

from __future__ import annotations

import torch

from softcache.distill.checks import REDUCTIONS, check_choice, finite
from softcache.distill.feature_rows import (
    check_resize,
    reduced,
    resized,
    student_rows,
    teacher_rows,
)
from softcache.distill.scale import scaled, unit
from softcache.errors import TaskError
from softcache.soft.protocol import Soft


def attention_loss(
    student: torch.Tensor, soft: Soft, *, power: float = 2, resize: str | None = None, reduction: str = "mean"
) -> torch.Tensor:
    """Return how far a student's attention map is from the teacher's (Zagoruyko and Komodakis 2017, section 3.1).

    The attention map of features A is Q = sum over the channels of |A|^power, and it is compared without its scale. A
    row's loss is the mean over the H * W places of (Q_S / ||Q_S||_2 - Q_T / ||Q_T||_2)².

    Eq. 2 adds beta / 2 times the l2 norm of this difference to the student's loss. Here, as in the authors' code, the
    norm is squared, divided by H * W, and not halved; the beta of their experiments, the loss's weight, is 1000.

    Args:
        student: features [B, C', H', W'], with any number of channels, on any device; the soft targets are moved there.
            float64 is kept, anything else is computed in float32.
        soft: the teacher's features, of shape [C, H, W]; rows without an answer do not count.
        power: the exponent, at least 1. A higher one gives more weight to the places with the strongest features.
        resize: how to resize the student's attention map to H x W: `area` averages the places that fall into one,
            `bilinear` looks at the nearest four only, so prefer `area` to make maps smaller. None if it has that size.
        reduction: `mean` over the rows that count (0 if none does), `sum`, or `none` for one loss each, [B], 0 where a
            row does not count.

    Features that are all 0 have a map of zeros, without a gradient.

    Raises:
        TaskError: a target of another kind than features, features that are no maps, maps of different sizes without
            `resize`, an invalid power, resize or reduction.

    Examples:
        >>> import numpy as np
        >>> from softcache.codecs import DenseCodec
        >>> from softcache.soft.keys import KnownKeys
        >>> from softcache.tasks import TaskSpec
        >>> codec = DenseCodec(TaskSpec("features", (8, 4, 4)))
        >>> soft = softcache.SoftTargets(  # two samples; `Target.lookup` reads these from a cache
        ...     codec.decoder,
        ...     codec.encode(torch.randn(2, 8, 4, 4)),
        ...     torch.ones(2, dtype=torch.bool),
        ...     KnownKeys(np.array([7, 8]), np.zeros(2, np.int32)),
        ... )
        >>> features = torch.randn(2, 3, 8, 8, requires_grad=True)  # fewer channels, a larger map
        >>> loss = softcache.attention_loss(features, soft, resize="area")
        >>> (1000 * loss).backward()
    """
    _check_features(soft)
    check_choice("reduction", reduction, REDUCTIONS)
    if len(soft.task.shape) != 3:
        raise TaskError(f"the target's features are {list(soft.task.shape)}; attention maps need maps [C, H, W]")
    check_resize(resize, soft)
    if (power := finite("power", power)) < 1:
        raise TaskError(f"power is {power}; expected a number of at least 1: below it the gradient at 0 is infinite")
    if student.ndim != 4:
        raise TaskError(f"the student's features are {list(student.shape)}; expected maps [{len(soft)}, C, H, W]")
    soft = soft.to(student.device)
    ours = _attention_maps(student_rows(student, soft), power)
    theirs = _attention_maps(teacher_rows(soft, ours.dtype), power)
    ours = resized(ours, soft.task.shape[1:], resize)
    return reduced((unit(ours.flatten(1), 1) - unit(theirs.flatten(1), 1)).square().mean(1), soft, reduction)


def similarity_loss(student: torch.Tensor, soft: Soft, *, reduction: str = "mean") -> torch.Tensor:
    """Return how far the similarities of a batch's samples are from the teacher's (Tung and Mori 2019, section 3.1).

    The features of a sample are flattened to a row of Q, and G is the matrix Q Qᵀ with each row divided by its l2 norm
    (eqs. 1 and 2). The loss is ||G_T - G_S||² / b², with the Frobenius norm and the b rows of the batch that have an
    answer (eq. 3). Add it to the student's loss with a weight, the paper's gamma (eq. 4).

    Rows without an answer have neither a row nor a column in the matrices. Features that are all 0 are similar to
    nothing: their rows and columns are 0.

    Args:
        student: features [B, ...] of any shape, on any device; the soft targets are moved there. float64 is kept,
            anything else is computed in float32.
        soft: the teacher's features of the same samples, of any shape.
        reduction: `mean` over the b² pairs, as in the paper (0 if no row counts), or `sum` over them. A row has no loss
            of its own, so `none` is refused.

    Raises:
        TaskError: a target of another kind than features, student features that are not one row for each of the
            teacher's, an invalid reduction.

    Examples:
        >>> soft = softcache.open("runs/digits")["embedding@a"].lookup([0, 1, 2])
        >>> features = torch.randn(3, 32, requires_grad=True)  # need not have the teacher's shape
        >>> softcache.similarity_loss(features, soft).backward()
        >>> own = soft.values.float()  # a student with the teacher's features, at another scale
        >>> bool(softcache.similarity_loss(5 * own, soft) < 1e-10)
        True
    """
    _check_features(soft)
    if reduction not in ("mean", "sum"):
        raise TaskError(
            f"reduction is {reduction!r}; expected mean or sum: the loss compares the rows of a batch with each other, "
            "and a single row has none"
        )
    soft = soft.to(student.device)
    ours = student_rows(student, soft)
    theirs = teacher_rows(soft, ours.dtype)
    if not len(soft):
        return ours.sum()  # an empty matrix has no largest number to divide by
    apart = (_similarities(ours.flatten(1)) - _similarities(theirs.flatten(1))).square().sum()
    return apart if reduction == "sum" else apart / soft.mask.sum().clamp(min=1).square()


def _attention_maps(features: torch.Tensor, power: float) -> torch.Tensor:
    """Return the sums over the channels of |features|^power, up to a factor for each row: [B, 1, H, W]."""
    return scaled(features.flatten(1), 1).view_as(features).abs().pow(power).sum(1, keepdim=True)


def _similarities(rows: torch.Tensor) -> torch.Tensor:
    """Return the products of all pairs of rows [B, N], each row of the products with l2 norm 1, or 0: [B, B]."""
    # Autocast would multiply in half precision.
    with torch.autocast(rows.device.type, enabled=False):
        return unit(scaled(rows, 1) @ rows.T, 1)


def _check_features(soft: Soft) -> None:
    if not soft.task.traits.is_intermediate:
        fitting = "distillation_loss" if soft.task.has_temperature else "regression_loss"
        raise TaskError(f"a {soft.task.kind} target has no features of a layer; use softcache.{fitting}")
