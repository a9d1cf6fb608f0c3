"""Maps stored place by place, in a codec for single items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from softcache.codecs.base import Codec, Column, Pilot, map_items
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, check_temperature


@dataclass(frozen=True)
class MapCodec(Codec):
    """Stores each place of a map [C, H, W] as `inner` stores an item of C classes: its columns become [H, W, ...]."""

    inner: Codec = field(kw_only=True)

    @property
    def value_columns(self) -> tuple[Column, ...]:
        return tuple(replace(column, shape=(*self._grid, *column.shape)) for column in self.inner.value_columns)

    @property
    def _grid(self) -> tuple[int, ...]:
        return self.task.shape[1:]

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        places = self._grid[0] * self._grid[1]
        found: dict[int, str] = {}
        for item, reason in self.inner.faults(map_items(values)).items():
            found.setdefault(item // places, reason)
        return found

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        columns = self.inner.encode(map_items(values))
        return {name: c.reshape(len(values), *self._grid, *c.shape[1:]) for name, c in columns.items()}

    def per_item(self, columns: Mapping[str, torch.Tensor]) -> tuple[Codec, Mapping[str, torch.Tensor]]:
        return self.inner, {name: column.flatten(0, len(self._grid)) for name, column in columns.items()}

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the stored values of each place, [B, k, H, W]."""
        return self._maps(self.inner.values(self.per_item(columns)[1]))

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        items = self.per_item(columns)[1]
        return self._maps(self.inner.log_probs(items, self._each(temperature, columns)))

    def sparse_log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> SparseLogProbs | None:
        """Return log p(T) of the stored classes [B, k, H, W], and of the others' mass [B, H, W]."""
        found = self.inner.sparse_log_probs(self.per_item(columns)[1], self._each(temperature, columns))
        return None if found is None else SparseLogProbs(*map(self._maps, found))

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        return self._maps(self.inner.logits(map_items(values)))

    def compared(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._maps(self.inner.compared(self.per_item(columns)[1])).flatten(1)

    def finer(self) -> Iterator[Codec]:
        for inner in self.inner.finer():
            yield replace(self, inner=inner)

    @property
    def covers_all(self) -> bool:
        return self.inner.covers_all

    @property
    def has_shape(self) -> bool:
        return self.inner.has_shape

    @property
    def has_all_values(self) -> bool:
        return self.inner.has_all_values

    @property
    def table_name(self) -> str | None:
        return self.inner.table_name

    @property
    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.inner.table_shapes

    def make_table(self, pilot: Pilot) -> dict[str, torch.Tensor]:
        return self.inner.make_table(_ItemPilot(pilot, self._grid[0] * self._grid[1]))

    def with_table(self, table: Any) -> MapCodec:
        return replace(self, inner=self.inner.with_table(table))

    def to_json(self) -> dict[str, Any]:
        return self.inner.to_json()

    def _each(self, temperature: Temperature, columns: Mapping[str, torch.Tensor]) -> Temperature:
        """Return a temperature for each place from one for all, or one for each map."""
        first = next(iter(columns.values()))
        t = check_temperature(temperature, len(first))
        return t.repeat_interleave(self._grid[0] * self._grid[1]).to(first.device) if isinstance(t, torch.Tensor) else t

    def _maps(self, items: torch.Tensor) -> torch.Tensor:
        """Return items [B * H * W, ...] as maps, [B, ..., H, W]."""
        maps = items.view(-1, *self._grid, *items.shape[1:])
        return maps.movedim((1, 2), (-2, -1))


@dataclass(frozen=True, eq=False)
class _ItemPilot:
    """The places of a teacher's maps, as items."""

    pilot: Pilot
    places: int

    def values(self, items: int) -> torch.Tensor:
        found = map_items(self.pilot.values(-(-items // self.places)))
        return found[:: max(len(found) // items, 1)]

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self.pilot.output_layer()
