"""What a student learns from the soft targets of a batch, for trainers: one object in place of a loss function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from softcache.distill.comparison import Divergence
from softcache.distill.distillation import count_items, distillation_loss
from softcache.distill.labels import NO_CLASS
from softcache.distill.parts import Items
from softcache.distill.schedules import Schedule, value_at
from softcache.errors import TaskError
from softcache.soft.batch import SoftBatch
from softcache.soft.protocol import Soft
from softcache.soft.sequences import SoftSequences

Scheduled = float | Schedule | Callable[[int], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Distillation:
    """How a student learns from the soft targets of a batch. `TrainerMixin` takes it; other trainers can call `loss`.

    Attributes:
        temperature: a number, a schedule, or a function of the step.
        alpha: weight of the soft part; a number, a schedule, or a function of the step. With 1 no labels are needed.
        target: which target of the batch, by name; not needed if there is one.
        divergence: as for `distillation_loss`.
        ignore_index: as for `distillation_loss`.
        label_smoothing: as for `distillation_loss`.
        class_weights: as for `distillation_loss`.

    Examples:
        >>> distillation = softcache.Distillation(temperature=softcache.schedules.linear(20, 1, steps=100), alpha=0.5)
        >>> soft = softcache.SoftBatch({"digit@a": softcache.open("runs/digits")["digit@a"].lookup([0, 1])})
        >>> logits, labels = torch.zeros(2, 10, requires_grad=True), torch.tensor([0, 1])
        >>> distillation.loss(logits, soft, labels, step=50).backward()
    """

    temperature: Scheduled = 1.0
    alpha: Scheduled = 1.0
    target: str | None = None
    divergence: Divergence = "forward_kl"
    ignore_index: int = NO_CLASS
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = field(default=None, repr=False)

    def loss(
        self,
        logits: torch.Tensor,
        soft: SoftBatch | Soft,
        labels: torch.Tensor | None = None,
        *,
        step: int = 0,
        epoch: float = 0.0,
        num_items: Items | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of a batch, `distillation_loss` with the temperature and alpha of this step.

        A language model's logits may be [1, N, V] for spans that follow each other without padding.
        """
        chosen = self.choose(soft)
        if isinstance(chosen, SoftSequences) and is_flat(logits.shape[:-1], chosen):
            logits, labels = logits[0], None if labels is None else labels.reshape(-1)
        return distillation_loss(
            logits,
            chosen,
            value_at(self.temperature, step=step, epoch=epoch),
            labels,
            value_at(self.alpha, step=step, epoch=epoch),
            divergence=self.divergence,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
            num_items=num_items,
            lengths=lengths,
        )

    def count(
        self, soft: SoftBatch | Soft, labels: torch.Tensor | None = None, *, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return how much of a batch counts in the soft and in the hard part, float32 [2] (`count_items`)."""
        chosen = self.choose(soft)
        if labels is not None and isinstance(chosen, SoftSequences) and is_flat(labels.shape, chosen):
            labels = labels.reshape(-1)
        return count_items(
            chosen,
            labels,
            ignore_index=self.ignore_index,
            class_weights=self.class_weights,
            divergence=self.divergence,
            lengths=lengths,
        )

    def choose(self, soft: SoftBatch | Soft) -> Soft:
        """Return the soft targets of the chosen target. Raises TaskError if there are several and none is chosen."""
        if not isinstance(soft, Mapping):
            return soft
        if self.target is not None:
            return soft[self.target]
        if len(soft) != 1:
            raise TaskError(f"the batch has the targets {', '.join(soft)}; give Distillation(target=...)")
        return next(iter(soft.values()))


def is_flat(shape: torch.Size, soft: SoftSequences) -> bool:
    """Whether positions of a shape are one row of all sequences, one after the other without padding."""
    return len(shape) == 2 and shape[0] == 1 and len(soft) != 1 and shape[1] == int(soft.lengths.sum())


def check_positions(logits: torch.Tensor, input_ids: torch.Tensor, soft: SoftSequences) -> None:
    """Check that each position of a language model's logits answers the token that the teacher saw there.

    `input_ids` are [B, L'], padded on the right, or [1, N] without padding. Raises TaskError for logits of other
    positions, AlignmentError for other tokens.
    """
    if logits.shape[:-1] != input_ids.shape:
        raise TaskError(
            f"the student has {list(input_ids.shape)} tokens and logits for {list(logits.shape[:-1])} positions: each "
            "token needs logits of its own, and virtual tokens, as those of prompt tuning, have no soft targets"
        )
    rows = input_ids.cpu()
    soft.check_input_ids(torch.split(rows[0], soft.lengths.tolist()) if is_flat(rows.shape, soft) else rows)


def next_labels(labels: torch.Tensor) -> torch.Tensor:
    """Return a language model's labels [B, L], a token's label being the token, as those of the token before it."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NO_CLASS)


def loss_labels(batch: Mapping[str, Any], soft: Soft) -> torch.Tensor | None:
    """Return the labels of a trainer's batch as `distillation_loss` wants them, if there are any."""
    if not soft.task.traits.has_tokens:
        return batch.get("labels")
    if "shift_labels" in batch:
        return batch["shift_labels"]  # type: ignore[no-any-return]
    labels = batch.get("labels")
    return None if labels is None else next_labels(labels)
