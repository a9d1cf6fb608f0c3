"""Soft targets of several targets for the same rows, and how targets are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from softcache.errors import UnknownTarget
from softcache.soft.protocol import Soft
from softcache.soft.rows import Rows


class SoftBatch(Mapping[str, Soft]):
    """Soft targets of several targets for the same rows, by target name. It moves as one: `.to`, `.pin_memory`.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> loader = torch.utils.data.DataLoader([{"id": i} for i in range(4)], batch_size=2)
        >>> batch = next(iter(softcache.join(loader, cache, id="id", targets=["digit@a"])))
        >>> batch["soft"]["digit@a"].probs(temperature=2.0).shape
        torch.Size([2, 10])
    """

    def __init__(self, targets: Mapping[str, Soft]) -> None:
        self._targets = dict(targets)

    def __getitem__(self, name: str) -> Soft:
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

    def rows(self, rows: Rows) -> SoftBatch:
        """Return some of the rows of every target."""
        return SoftBatch({n: s[rows] for n, s in self._targets.items()})

    @classmethod
    def concatenate(cls, batches: Sequence[SoftBatch]) -> SoftBatch:
        """Return several batches of the same targets as one."""
        first = batches[0]
        return cls({name: type(soft).concatenate([b[name] for b in batches]) for name, soft in first.items()})


def resolve_name(name: str, targets: Mapping[str, object]) -> str:
    """Return the full name of a target: `name`, or the only `name@...`. Raises UnknownTarget listing the targets."""
    if name in targets:
        return name
    fitting = [t for t in targets if t.partition("@")[0] == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownTarget(f"{name!r} is answered by {', '.join(fitting)}; name one of them")
    raise UnknownTarget(f"no target {name!r}; the targets are {', '.join(targets) or 'none'}")
