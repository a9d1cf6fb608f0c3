"""Soft targets of several targets for the same rows, and how targets are named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from softcache.arrays import Array
from softcache.errors import UnknownTarget, counted
from softcache.soft.protocol import Soft

RowChoice = slice | Array | torch.Tensor | Sequence[int]


class SoftBatch(Mapping[str, Soft]):
    """Soft targets of several targets for the same rows, by target name.

    As tensors do, it moves as one (`.to`, `.pin_memory`), and gives some of its rows: `soft[i:j]`, `soft[positions]`.
    Its length is that of the mapping; `rows` is the number of rows.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> loader = torch.utils.data.DataLoader([{"id": i} for i in range(4)], batch_size=2)
        >>> batch = next(iter(softcache.join(loader, cache, id="id", targets=["digit@a"])))
        >>> batch["soft"]["digit@a"].probs(temperature=2.0).shape
        torch.Size([2, 10])
    """

    def __init__(self, targets: Mapping[str, Soft]) -> None:
        self._targets = dict(targets)

    @overload
    def __getitem__(self, key: str) -> Soft: ...

    @overload
    def __getitem__(self, key: RowChoice) -> SoftBatch: ...

    def __getitem__(self, key: str | RowChoice) -> Soft | SoftBatch:
        """Return the soft targets of one target by name, or some rows of every target: a slice, a mask or positions."""
        if isinstance(key, str):
            return self._targets[key if key in self._targets else resolve_name(key, self._targets)]
        if not isinstance(key, slice) and np.ndim(key) == 0:
            raise TypeError(
                f"a SoftBatch has no part {key!r}: give a target's name, a slice or positions. To make a batch of "
                "samples with soft targets, use collate_fn=softcache.collate"
            )
        return SoftBatch({name: soft[key] for name, soft in self._targets.items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self._targets.values()), ()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {counted(self.rows, 'row')}: {', '.join(self._targets)}>"

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SoftBatch:
        """Return the same targets on a device."""
        return SoftBatch({n: s.to(device, non_blocking=non_blocking) for n, s in self._targets.items()})

    def pin_memory(self) -> SoftBatch:
        """Return the same targets in pinned memory."""
        return SoftBatch({n: s.pin_memory() for n, s in self._targets.items()})

    @classmethod
    def concatenate(cls, batches: Sequence[SoftBatch]) -> SoftBatch:
        """Return several batches of the same targets as one."""
        first = batches[0]
        return cls({name: type(soft).concatenate([b[name] for b in batches]) for name, soft in first.items()})


def _collate(batches: Sequence[SoftBatch], **options: object) -> SoftBatch:
    return SoftBatch.concatenate(batches)


# So that torch's default collate function makes a batch of samples with soft targets.
default_collate_fn_map[SoftBatch] = _collate


def resolve_name(name: str, targets: Collection[str]) -> str:
    """Return the full name of a target: `name`, or the only `name@...`. Raises UnknownTarget listing the targets."""
    if name in targets:
        return name
    fitting = [t for t in targets if t.partition("@")[0] == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownTarget(f"{name!r} is answered by {', '.join(fitting)}; name one of them")
    raise UnknownTarget(f"no target {name!r}; the targets are {', '.join(targets) or 'none'}")
