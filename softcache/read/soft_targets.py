"""Soft targets: a batch of stored values to which a temperature is applied when read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch

from softcache.codecs import SparseLogProbs, Temperature
from softcache.errors import TaskError, UnknownTarget
from softcache.read.row_keys import KnownKeys, RowKeys
from softcache.tasks import TaskSpec

Array = np.ndarray[Any, Any]
MAX_DENSE_BYTES = 4 * 2**30


class Decoder(Protocol):
    """What turns stored columns into values and distributions: a codec, or an ensemble of them."""

    @property
    def task(self) -> TaskSpec:
        """The task that the values answer."""

    @property
    def covers_all(self) -> bool:
        """Whether every class has a probability of its own or a share of the rest's."""

    @property
    def has_shape(self) -> bool:
        """Whether classes that are not stored by themselves have shares of their own in the rest."""

    def per_item(self, columns: Mapping[str, torch.Tensor]) -> tuple[Decoder, Mapping[str, torch.Tensor]]:
        """Return what decodes single items, and the columns of all of them, of maps those of every place."""

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the stored values, rows first."""

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log p(T), float32 [B, C, ...]."""

    def log_outcomes(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log p(T) and log(1 - p(T)) of classes that are each by itself, float32 [B, C, 2]."""

    def sparse_log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> SparseLogProbs | None:
        """Return log p(T) of the stored classes and of the rest, None where every class is stored."""


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A batch of B rows of one target.

    Attributes:
        decoder: the target's codec.
        columns: its stored columns, each [B, ...], in the stored dtype.
        mask: bool [B], False where the teacher gave no answer; such a row's values are NaN.
        keys: the rows' sample ids and views.
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
    def values(self) -> torch.Tensor:
        """The stored values, rows first.

        Of a dense target [B, *task.shape] in the stored dtype; of a quantized one the same as float32; of a top-k or
        sampled one float32 [B, k], the stored classes' logits relative to the highest of all; of a hidden one [B, d],
        what the last layer reads. An ensemble of K members gives K tensors stacked on the second axis where their
        shapes are equal.
        """
        return self.decoder.values(self.columns)

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The task's further numbers, float32, rows first: `variance` of regression, `boxes` of detection, ..."""
        return {part.name: self.columns[part.name] for part in self.task.stored_parts}

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.mask.device

    def log_probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return log p(T), float32 [B, C], of maps [B, C, H, W], NaN in masked rows.

        With sigmoid it is each class's own. `temperature` is a number or a tensor [B]. Classes that a compressed target
        does not store share their mass as its codec says. Raises TaskError if the temperature is not finite and
        positive, or below what the target answers; if the target has none; if the result would be larger than 4 GiB.
        """
        check_dense_size(len(self), self.task)
        return self.decoder.log_probs(self.columns, temperature)

    def sparse_log_probs(self, temperature: Temperature = 1.0) -> SparseLogProbs:
        """Return the stored classes, their log p(T), and the log of the others' mass; NaN in masked rows.

        Raises TaskError as `log_probs`, and for a target that stores every class or an ensemble.
        """
        found = self.decoder.sparse_log_probs(self.columns, temperature)
        if found is None:
            raise TaskError("this target has a value for every class; use .log_probs")
        return found

    def probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return p(T), shaped as `log_probs`, NaN in masked rows. Raises as `log_probs`."""
        return self.log_probs(temperature).exp()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the same rows on a device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the same rows in pinned memory."""
        return self._map(torch.Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: int | slice | Array | torch.Tensor) -> SoftTargets:
        """Return some of the rows, always as a batch: `soft[i]`, `soft[i:j]`, `soft[mask]`, `soft[positions]`."""
        if not isinstance(rows, slice) and np.ndim(rows) == 0:
            rows = int(rows)
            if not -len(self) <= rows < len(self):
                raise IndexError(f"row {rows} of a batch of {len(self)}")
            rows = slice(rows, rows + 1 or None)
        if isinstance(rows, slice) and (rows.step or 1) < 0:
            rows = np.arange(len(self))[rows].copy()
        if not isinstance(rows, (slice, torch.Tensor)):
            rows = np.asarray(rows) if np.size(rows) else np.empty(0, np.int64)
        here = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows
        there = rows if isinstance(rows, (slice, torch.Tensor)) else torch.as_tensor(rows, device=self.device)
        return self._picked(here, there)

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> SoftTargets:
        """Return batches of one target as one."""
        first: SoftTargets = parts[0]
        return replace(
            first,
            columns={name: torch.cat([p.columns[name] for p in parts]) for name in first.columns},
            mask=torch.cat([p.mask for p in parts]),
            keys=KnownKeys(np.concatenate([p.ids for p in parts]), np.concatenate([p.views for p in parts])),
        )

    def _picked(self, here: Any, there: Any) -> SoftTargets:
        """Return some rows: which, as numpy or slice, and the same for tensors."""
        return replace(self._map(lambda t: t[there]), keys=self.keys.take(here))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        columns = {name: change(column) for name, column in self.columns.items()}
        return replace(self, columns=columns, mask=change(self.mask))


class SoftBatch(Mapping[str, SoftTargets]):
    """Soft targets of several targets for the same rows, by target name; moves as one with `.to` and `.pin_memory`."""

    def __init__(self, targets: Mapping[str, SoftTargets]) -> None:
        self._targets = dict(targets)

    def __getitem__(self, name: str) -> SoftTargets:
        if name in self._targets:
            return self._targets[name]
        return self._targets[resolve_name(name, self._targets)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SoftBatch:
        """Return the same targets on a device."""
        return SoftBatch({n: s.to(device, non_blocking=non_blocking) for n, s in self._targets.items()})

    def pin_memory(self) -> SoftBatch:
        """Return the same targets in pinned memory."""
        return SoftBatch({n: s.pin_memory() for n, s in self._targets.items()})

    def rows(self, rows: slice | Array | torch.Tensor) -> SoftBatch:
        """Return some of the rows of every target."""
        return SoftBatch({n: s[rows] for n, s in self._targets.items()})


def check_dense_size(rows: int, task: TaskSpec) -> None:
    """Raise TaskError if so many rows of a task's distributions would take too much memory."""
    size = 4 * rows * math.prod(task.shape)
    if size > MAX_DENSE_BYTES:
        raise TaskError(
            f"log_probs of {rows:,} rows of {list(task.shape)} would take {size / 2**30:.1f} GiB; take fewer rows "
            "(soft[i:j]), or .sparse_log_probs; distillation_loss needs neither"
        )


def resolve_name(name: str, targets: Mapping[str, object]) -> str:
    """Return the target that `name` names: itself, or the only `name@…`. Raises UnknownTarget listing what there is."""
    if name in targets:
        return name
    fitting = [t for t in targets if t.partition("@")[0] == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownTarget(f"{name!r} is answered by {', '.join(fitting)}; name one of them")
    raise UnknownTarget(f"no target {name!r}; there are {', '.join(targets) or 'none'}")
