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
Scale = float | torch.Tensor


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

    def plan(self, alpha: float, reduction: str, num_items: Items | None) -> Plan:
        """Return which rows have which part, and what the parts are multiplied by. The device is waited for once.

        Raises TaskError for num_items, labels or weights that are invalid.
        """
        if num_items is not None and reduction != "mean":
            raise TaskError(f"num_items is for reduction='mean', not {reduction!r}")
        soft = self.soft_rows if alpha > 0 else torch.zeros_like(self.soft_rows)
        asked = {"all soft": soft.all()}
        if self.weights is not None:
            asked["bad weights"] = ~((self.weights >= 0) & self.weights.isfinite()).all()
        if self.hard is not None:
            asked["bad labels"] = self.hard.problem
        if self.right is not None:
            asked["bad right labels"] = self.right.problem
        alone = None if self.hard is None or alpha == 1 else self.hard.rows > soft
        if alone is not None:
            asked["any alone"] = alone.any()
        if reduction == "mean" and num_items is None:
            asked |= self._totals()
        told = dict(zip(asked, torch.stack(list(asked.values())).tolist(), strict=True))
        if self.hard is not None and told["bad labels"]:
            raise TaskError(self.hard.explain())
        if self.right is not None and told["bad right labels"]:
            raise TaskError(self.right.explain())
        if told.get("bad weights"):
            raise TaskError("sample_weights must be finite numbers of at least 0")
        if num_items is None:
            of_soft, of_hard = told.get("soft", 1), told.get("hard", 1)
        else:
            of_soft, of_hard = _pair(num_items, soft.device)
        return Plan(
            soft_rows=None if told["all soft"] else soft.nonzero()[:, 0],
            hard_rows=alone.nonzero()[:, 0] if alone is not None and told["any alone"] else None,
            soft_scale=_scale(alpha, of_soft, self.weights),
            hard_scale=_scale(1 - alpha, of_hard, self.weights),
        )

    def totals(self) -> torch.Tensor:
        """Return what the rows of the soft and of the hard part weigh together: float32 [2]."""
        found = self._totals()
        return torch.stack([found["soft"], found.get("hard", torch.zeros_like(found["soft"]))]).float()

    def _totals(self) -> dict[str, torch.Tensor]:
        """Return what the rows of each part weigh together, numbers of rows if nothing has a weight."""
        rows = {"soft": self.soft_rows}
        if self.hard is not None:
            rows["hard"] = self.hard.weights
        return {part: (each if self.weights is None else each * self.weights).sum() for part, each in rows.items()}

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """What is computed for which rows.

    Attributes:
        soft_rows: the rows that have a soft part, int64; None for all.
        hard_rows: the rows that have only a hard part, int64; None if there are none.
        soft_scale: what the soft part of a row is multiplied by: one number, or float32 [R].
        hard_scale: the same for its hard part.
    """

    soft_rows: torch.Tensor | None
    hard_rows: torch.Tensor | None
    soft_scale: Scale
    hard_scale: Scale

    def soft_scale_of(self, rows: Rows) -> Scale:
        """Return what the soft part of some rows is multiplied by."""
        return _of_rows(self.soft_scale, rows)

    def hard_scale_of(self, rows: Rows) -> Scale:
        """Return what the hard part of some rows is multiplied by."""
        return _of_rows(self.hard_scale, rows)


def _of_rows(scale: Scale, rows: Rows) -> Scale:
    return scale[rows] if isinstance(scale, torch.Tensor) and scale.ndim else scale


def _scale(weight: float, total: float | torch.Tensor, weights: torch.Tensor | None) -> Scale:
    """Return what the rows of a part are multiplied by. A part in which nothing counts is 0, whatever divides it."""
    if isinstance(total, torch.Tensor):
        scale: Scale = weight / torch.where(total == 0, 1.0, total)  # a NaN stays one
    else:
        scale = weight / total if total else weight
    return scale if weights is None else scale * weights


def _pair(num_items: Items, device: torch.device) -> tuple[Scale, Scale]:
    """Return num_items for the soft and for the hard part; those of a tensor are not waited for. Raises TaskError."""
    try:
        soft, hard = torch.as_tensor(num_items, dtype=torch.float32).reshape(-1).expand(2)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TaskError(f"num_items is {num_items!r}; expected a number, or one for each part: (soft, hard)") from e
    if isinstance(num_items, torch.Tensor):
        return soft.to(device), hard.to(device)
    if min(soft, hard) < 0:
        raise TaskError(f"num_items is {num_items!r}; expected numbers of at least 0")
    return float(soft), float(hard)


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
