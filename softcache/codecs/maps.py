"""Maps stored place by place, in a codec for single items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from softcache.codecs.codec import Codec, CodecTraits
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.logits import map_items
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.tables import Pilot, Table, TableSpec
from softcache.codecs.temperature import Temperature, check_temperature


@dataclass(frozen=True)
class MapCodec(Codec):
    """Stores each place of a map [C, H, W] as `inner` stores an item of C classes: its columns become [H, W, ...]."""

    inner: Codec = field(kw_only=True)

    @property
    def _grid(self) -> tuple[int, ...]:
        return self.task.shape[1:]

    def to_json(self) -> dict[str, Any]:
        return self.inner.to_json()

    @property
    def value_columns(self) -> tuple[Column, ...]:
        return tuple(replace(column, shape=(*self._grid, *column.shape)) for column in self.inner.value_columns)

    @property
    def traits(self) -> CodecTraits:
        return self.inner.traits

    @property
    def item(self) -> Codec:
        return self.inner

    @property
    def table_spec(self) -> TableSpec | None:
        spec = self.inner.table_spec
        if spec is None:
            return None
        places, make = self._grid[0] * self._grid[1], spec.make
        return replace(spec, make=lambda pilot: make(_PlacesPilot(pilot, places)))

    def with_table(self, table: Table) -> MapCodec:
        return replace(self, inner=self.inner.with_table(table))

    def finer(self) -> Iterator[Codec]:
        for inner in self.inner.finer():
            yield replace(self, inner=inner)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        places = self._grid[0] * self._grid[1]
        found: dict[int, str] = {}
        for item, reason in self.inner.faults(map_items(values)).items():
            found.setdefault(item // places, reason)
        return found

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        columns = self.inner.encode(map_items(values))
        return {name: c.reshape(len(values), *self._grid, *c.shape[1:]) for name, c in columns.items()}

    @property
    def decoder(self) -> MapDecoder:
        return MapDecoder(self.task, self.inner.decoder)


@dataclass(frozen=True)
class MapDecoder(Decoder):
    """Reads maps whose places `inner` reads."""

    inner: Decoder

    @property
    def _grid(self) -> tuple[int, ...]:
        return self.task.shape[1:]

    def per_item(self, columns: Columns) -> tuple[Decoder, Columns]:
        return self.inner, {name: column.flatten(0, len(self._grid)) for name, column in columns.items()}

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the stored values of each place, [B, k, H, W]."""
        return self._maps(self.inner.values(self.per_item(columns)[1]))

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        items = self.per_item(columns)[1]
        return self._maps(self.inner.log_probs(items, self._each(temperature, columns)))

    def sparse_log_probs(self, columns: Columns, temperature: Temperature) -> SparseLogProbs | None:
        """Return log p(T) of the stored classes [B, k, H, W], and of the others' mass [B, H, W]."""
        found = self.inner.sparse_log_probs(self.per_item(columns)[1], self._each(temperature, columns))
        return None if found is None else SparseLogProbs(*map(self._maps, found))

    def compared(self, columns: Columns) -> torch.Tensor:
        return self._maps(self.inner.compared(self.per_item(columns)[1])).flatten(1)

    @property
    def covers_all(self) -> bool:
        return self.inner.covers_all

    @property
    def has_shape(self) -> bool:
        return self.inner.has_shape

    def _each(self, temperature: Temperature, columns: Columns) -> Temperature:
        """Return a temperature for each place, from one for all maps or one for each map."""
        first = next(iter(columns.values()))
        t = check_temperature(temperature, len(first))
        return t.repeat_interleave(self._grid[0] * self._grid[1]).to(first.device) if isinstance(t, torch.Tensor) else t

    def _maps(self, items: torch.Tensor) -> torch.Tensor:
        """Return items [B * H * W, ...] as maps, [B, ..., H, W]."""
        maps = items.view(-1, *self._grid, *items.shape[1:])
        return maps.movedim((1, 2), (-2, -1))


@dataclass(frozen=True, eq=False)
class _PlacesPilot:
    """A pilot whose items are the places of a teacher's maps."""

    maps: Pilot
    places: int

    def values(self, items: int) -> torch.Tensor:
        found = map_items(self.maps.values(-(-items // self.places)))
        return found[:: max(len(found) // items, 1)]

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self.maps.output_layer()
