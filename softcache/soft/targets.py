"""Soft targets: a batch of stored values to which a temperature is applied when read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softcache.arrays import Array
from softcache.codecs import Decoder, SparseLogProbs, Temperature, check_temperature
from softcache.errors import TaskError
from softcache.soft.keys import RowKeys
from softcache.soft.rows import Rows, chosen_rows, joined_keys
from softcache.tasks import TaskSpec

MAX_DENSE_BYTES = 4 * 2**30


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A batch of B rows of one target. Made by `Target.lookup`, `Target.read` and the loaders.

    Attributes:
        decoder: what turns the columns into values and distributions.
        columns: the stored columns, each [B, ...], in the stored dtype.
        mask: bool [B], False where the teacher gave no answer. The values of such a row are NaN.
        keys: the rows' sample ids and views.

    Examples:
        >>> soft = softcache.open("runs/digits")["digit@a"].lookup([3, 1, 2])
        >>> soft.log_probs(temperature=4.0).shape
        torch.Size([3, 10])
    """

    decoder: Decoder
    columns: Mapping[str, torch.Tensor]
    mask: torch.Tensor
    keys: RowKeys

    @property
    def ids(self) -> Array:
        """Sample ids: numpy int64 [B], or objects (str) [B]."""
        return self.keys.ids

    @property
    def views(self) -> Array:
        """Views: numpy int32 [B]."""
        return self.keys.views

    @property
    def task(self) -> TaskSpec:
        """The task that these rows answer."""
        return self.decoder.task

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.mask.device

    @property
    def answered(self) -> torch.Tensor:
        """Which rows have an answer, bool [B]: the mask."""
        return self.mask

    @property
    def values(self) -> torch.Tensor:
        """The stored values, rows first.

        - dense: [B, *task.shape] in the stored dtype
        - quantized: the same as float32
        - top-k and sampled: float32 [B, k], the stored classes' logits relative to the highest of all
        - hidden: [B, d], the input of the teacher's last layer
        - an ensemble of K members: K tensors stacked on the second axis, if their shapes are equal

        Raises TaskError for an ensemble of different codecs, and for specialists.
        """
        return self.decoder.values(self.columns)

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The task's further numbers by name, float32, rows first: `variance` of regression, for instance."""
        return {part.name: self.columns[part.name] for part in self.task.stored_parts}

    def log_probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return log p(T), float32 [B, C] or for maps [B, C, H, W]; NaN in masked rows.

        With sigmoid each class has a probability of its own. `temperature` is a number or a tensor [B]. The classes
        that a compressed target does not store share the remaining mass as its codec says.

        Raises TaskError if the temperature is not finite and positive, or lower than the target can answer; if the
        target has no temperature; if the result would take more than 4 GiB.
        """
        check_dense_size(len(self), self.task)
        return self.decoder.log_probs(self.columns, temperature)

    def sparse_log_probs(self, temperature: Temperature = 1.0) -> SparseLogProbs:
        """Return the stored classes, their log p(T), and the log of the others' mass; NaN in masked rows.

        Raises TaskError as `log_probs`, and for a target that stores every class, an ensemble and specialists.
        """
        found = self.decoder.sparse_log_probs(self.columns, temperature)
        if found is None:
            raise TaskError("this target has a value for every class; use .log_probs")
        return found

    def probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return p(T), shaped as `log_probs`, NaN in masked rows. Raises as `log_probs`."""
        return self.log_probs(temperature).exp()

    def items_for(self, shape: Sequence[int], lengths: Any = None) -> tuple[torch.Tensor, None]:
        """Return which of a student's positions have an answer, bool [prod(shape)].

        `shape` is [B], or [B, H, W] for maps. Item i answers position i. Raises TaskError for `lengths`, which only
        sequences have.
        """
        if lengths is not None:
            raise TaskError(f"lengths are for sequences; the rows of a {self.task.kind} target have none")
        return self.per_position(self.mask, shape), None

    def per_position(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return values [B] for each of a student's positions (`shape` as for `items_for`), in one line."""
        return values.repeat_interleave(math.prod(shape[1:])) if len(shape) > 1 else values

    def item_temperatures(self, temperature: Temperature) -> Temperature:
        """Return one temperature for all items, if one is given, or from float32 [B] one for each item, [B * H * W]."""
        t = check_temperature(temperature, len(self))
        if not isinstance(t, torch.Tensor):
            return t
        return t.to(self.device).repeat_interleave(math.prod(self.task.shape[1:]) if self.task.is_map else 1)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SoftTargets:
        """Return the same rows on a device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftTargets:
        """Return the same rows in pinned memory."""
        return self._map(torch.Tensor.pin_memory)

    def __len__(self) -> int:
        """Return the number of rows, B."""
        return len(self.mask)

    def __getitem__(self, rows: Rows) -> SoftTargets:
        """Return some of the rows, always as a batch: `soft[i]`, `soft[i:j]`, `soft[mask]`, `soft[positions]`."""
        here, there = chosen_rows(rows, len(self), self.device)
        return replace(self._map(lambda t: t[there]), keys=self.keys.take(here))

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> SoftTargets:
        """Return batches of one target as one."""
        first: SoftTargets = parts[0]
        return replace(
            first,
            columns={name: torch.cat([p.columns[name] for p in parts]) for name in first.columns},
            mask=torch.cat([p.mask for p in parts]),
            keys=joined_keys([p.keys for p in parts]),
        )

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SoftTargets:
        columns = {name: change(column) for name, column in self.columns.items()}
        return replace(self, columns=columns, mask=change(self.mask))


def check_dense_size(rows: int, task: TaskSpec) -> None:
    """Raise TaskError if the distributions of `rows` rows of a task would take more than 4 GiB."""
    size = 4 * rows * math.prod(task.shape)
    if size > MAX_DENSE_BYTES:
        raise TaskError(
            f"log_probs of {rows:,} rows of {list(task.shape)} would take {size / 2**30:.1f} GiB; take fewer rows "
            "(soft[i:j]), or .sparse_log_probs; distillation_loss needs neither"
        )
