"""Tables: what all rows of a target share (docs/format.md, section 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from softcache.errors import CodecError


class Table(Protocol):
    """Columns by name with one row for each class."""

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        """Return the columns on a device."""


@dataclass(frozen=True, eq=False)
class GivenTable:
    """A table whose columns are in memory already."""

    columns: Mapping[str, torch.Tensor]

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        return {name: column.to(device) for name, column in self.columns.items()}


class Pilot(Protocol):
    """A sample of the teacher's values from which a table is made, before any row is stored."""

    def values(self, items: int) -> torch.Tensor:
        """Return the teacher's values for about `items` items [n, ...], spread evenly over the samples."""

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return the teacher's last layer: `weight` [C, d] and perhaps `bias` [C]. Raises TeacherError if unknown."""


@dataclass(frozen=True, eq=False)
class TableSpec:
    """The table that a codec needs.

    Attributes:
        name: the table's name in the cache.
        shapes: the shape of each column. A column `bias` may be absent.
        make: makes the columns from a pilot. Raises TeacherError if the teacher cannot give what that takes, CodecError
            if what it gives does not fit.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    make: Callable[[Pilot], dict[str, torch.Tensor]]


def columns_of(table: Table | None, name: str, codec: str, device: torch.device) -> Mapping[str, torch.Tensor]:
    """Return the columns of a codec's table on a device. Raises CodecError if the codec was not given its table."""
    if table is None:
        raise CodecError(f"codec {codec} needs its table {name!r}; read the target through its cache")
    return table.on(device)
