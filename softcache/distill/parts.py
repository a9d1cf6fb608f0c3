"""The two parts of a loss: which rows count in the soft part and which in the hard part, and how much each weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from softcache.distill.by_rows import Rows
from softcache.distill.divergences import known_columns
from softcache.distill.labels import HardLabels, LabelOptions, read_labels
from softcache.distill.positions import read_mask, read_sample_weights
from softcache.errors import TaskError
from softcache.soft.protocol import Soft

Items = float | torch.Tensor | Sequence[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """What counts in a batch of R rows.

    Attributes:
        soft: bool [R], which rows count in the soft part; or with sigmoid, if a mask says so, [R, K] for each of the
            teacher's classes.
        hard: the labels of the hard part; None if there are none.
        weights: float32 [R], the samples' weights; None if all are equal.
        items: int64 [R], which stored item answers each row; None if item i answers row i.
        right: the labels that say each row's right class, if the soft part needs it; otherwise None.
    """

    soft: torch.Tensor
    hard: HardLabels | None
    weights: torch.Tensor | None
    items: torch.Tensor | None
    right: HardLabels | None

    @property
    def soft_rows(self) -> torch.Tensor:
        """Which rows count in the soft part, bool [R]."""
        return self.soft.any(1) if self.soft.ndim == 2 else self.soft

    def groups(self, alpha: float) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the rows that have a soft part, None for all, and those that have only a hard part: int64.

        Raises TaskError for labels or weights that are invalid. The device is waited for once.
        """
        soft = self.soft_rows if alpha > 0 else torch.zeros_like(self.soft_rows)
        alone = torch.zeros_like(soft) if self.hard is None or alpha == 1 else self.hard.rows & ~soft
        read = [labels for labels in (self.hard, self.right) if labels is not None]
        of_weights = (
            soft.new_zeros(()) if self.weights is None else ~((self.weights >= 0) & self.weights.isfinite()).all()
        )
        all_soft, any_alone, bad_weights, *bad_labels = torch.stack(
            [soft.all(), alone.any(), of_weights, *(labels.problem for labels in read)]
        ).tolist()
        for labels, bad in zip(read, bad_labels, strict=True):
            if bad:
                raise TaskError(labels.explain())
        if bad_weights:
            raise TaskError("sample_weights must be finite numbers of at least 0")
        nothing = torch.empty(0, dtype=torch.int64, device=soft.device)
        return None if all_soft else soft.nonzero()[:, 0], alone.nonzero()[:, 0] if any_alone else nothing

    def totals(self) -> torch.Tensor:
        """Return what the rows of the soft and of the hard part weigh together: float32 [2]."""
        soft = self.soft_rows.float()
        hard = torch.zeros_like(soft) if self.hard is None else self.hard.weights
        if self.weights is not None:
            soft, hard = soft * self.weights, hard * self.weights
        return torch.stack([soft.sum(), hard.sum()])

    def items_of(self, rows: Rows) -> Rows:
        """Return the stored items that answer some rows."""
        return rows if self.items is None else self.items[rows]

    def right_classes(self, rows: Rows) -> torch.Tensor | None:
        """Return the right classes of some rows, int64 [r], if the soft part needs them."""
        return None if self.right is None else self.right.values[rows]

    def over_classes(self, losses: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return losses of rows [r]: those of classes [r, K] are added, without those that do not count."""
        if losses.ndim == 1:
            return losses
        return (torch.where(self.soft[rows], losses, 0.0) if self.soft.ndim == 2 else losses).sum(1)


@dataclass(frozen=True, eq=False)
class Scales:
    """What the soft and the hard part of each row are multiplied by: one number for all rows, [], or [R]."""

    soft: torch.Tensor
    hard: torch.Tensor

    @classmethod
    def of(cls, parts: Parts, alpha: float, reduction: str, num_items: Items | None, dtype: torch.dtype) -> Scales:
        """Return the scales in a dtype. Raises TaskError for an alpha or num_items that is invalid."""
        if not 0 <= alpha <= 1:
            raise TaskError(f"alpha is {alpha}; expected a weight in [0, 1]")
        of_parts = torch.tensor([alpha, 1 - alpha], dtype=dtype, device=parts.soft.device)
        if reduction == "mean":
            totals = parts.totals() if num_items is None else _pair(num_items, of_parts.device)
            # A part in which nothing counts is 0, whatever it is divided by. A NaN stays one.
            of_parts = of_parts / torch.where(totals == 0, 1.0, totals)
        elif num_items is not None:
            raise TaskError(f"num_items is for reduction='mean', not {reduction!r}")
        if parts.weights is None:
            return cls(of_parts[0], of_parts[1])
        return cls(of_parts[0] * parts.weights, of_parts[1] * parts.weights)

    def of_rows(self, scale: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return `soft` or `hard` for some rows."""
        return scale[rows] if scale.ndim else scale


def _pair(num_items: Items, device: torch.device) -> torch.Tensor:
    """Return num_items as float32 [2], for the soft and the hard part. Raises TaskError."""
    try:
        found = torch.as_tensor(num_items, dtype=torch.float32, device=device).reshape(-1).expand(2)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TaskError(f"num_items is {num_items!r}; expected a number, or one for each part: (soft, hard)") from e
    return found


def read_parts(
    soft: Soft,
    shape: torch.Size,
    labels: torch.Tensor | None,
    *,
    needs_labels: bool,
    by_label: bool,
    mask: torch.Tensor | None,
    label_mask: torch.Tensor | None,
    weights: torch.Tensor | None,
    options: LabelOptions,
    lengths: torch.Tensor | None = None,
) -> Parts:
    """Return what counts, for a student's logits of `shape`, classes last. Raises TaskError for what does not fit."""
    if labels is None and needs_labels:
        raise TaskError("there are no labels; give labels, or alpha=1 to use only the soft targets")
    answered, items = soft.items_for(shape[:-1], lengths)
    counts = answered
    if mask is not None:
        given = read_mask("mask", mask, soft, shape)
        counts = given & (answered[:, None] if given.ndim == 2 else answered)
    hard = right = None
    if labels is not None:
        hard_counts = counts if label_mask is None else read_mask("label_mask", label_mask, soft, shape)
        hard = read_labels(labels, soft.task, shape, hard_counts, options)
    if by_label and labels is not None:
        # A label that the hard part leaves out is still a label.
        right = read_labels(labels, soft.task, shape, counts, options)
        if right.values.ndim == 2:
            raise TaskError("this divergence needs one right class for each row; labels are distributions")
        counts = right.there
    return Parts(
        soft=known_columns(counts, soft.task) if counts.ndim == 2 else counts,
        hard=hard,
        weights=read_sample_weights(weights, soft, shape[:-1]),
        items=items,
        right=right,
    )
