"""What `rows` records of views: their checks, and their parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.errors import AlignmentError, FormatError, name_some
from softcache.store import arrow
from softcache.store.files import Files
from softcache.store.layout import ROWS
from softcache.store.manifest import LiveShard
from softcache.store.shards import Shard
from softcache.store.state import read_reference
from softcache.transfer.augmentation import PARTNER, Parameters
from softcache.transfer.libraries import versions_here
from softcache.transfer.view_checks import CHECK_BYTES

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class RecordedViews:
    """What `rows` holds of a fragment's views: their checks, uint8 [rows, 8], and perhaps their parameters.

    `versions` are those of the libraries that made them, and `here` what is installed of these now.
    """

    checks: Array
    parameters: list[Parameters | None] | None
    versions: dict[str, str]

    @classmethod
    def empty(cls, rows: int, *, draws: bool) -> RecordedViews:
        """Return the record of views of which none is made yet."""
        return cls(np.zeros((rows, CHECK_BYTES), np.uint8), [None] * rows if draws else None, {})

    @cached_property
    def here(self) -> dict[str, str]:
        """What is installed now of the libraries that made them."""
        return versions_here(self.versions)

    def are_those_of(self, files: Files, shard: Shard) -> bool:
        """Whether a `rows` shard records the same views: their checksums, and their parameters."""
        there = read_recorded(files, shard, self.versions)
        return np.array_equal(there.checks[:, :4], self.checks[:, :4]) and there.parameters == self.parameters


def check_partners(files: Files, shards: Iterable[LiveShard], changed: Mapping[int, pa.Array]) -> None:
    """Raise AlignmentError where samples that have changed, by fragment, are mixed into views of other fragments."""
    others = {sample_id for ids in changed.values() for sample_id in ids.to_pylist()}
    mixed: list[Any] = []
    for live in shards:
        if live.shard.target == ROWS and live.fragment not in changed:
            drawn = read_recorded(files, live.shard, {}).parameters or []
            mixed += [one[PARTNER] for one in drawn if one is not None and one.get(PARTNER) in others]
    if mixed:
        raise AlignmentError(
            f"{files.url}: samples {name_some(sorted(set(mixed)))} have changed, and views of other samples have them "
            "mixed in: those and the answers to them are of what the samples were. Restore them, or build another cache"
        )


def read_recorded(files: Files, shard: Shard, versions: dict[str, str]) -> RecordedViews:
    """Read what a `rows` shard holds of its views, checked. Raises IntegrityError or FormatError."""
    where = f"{files.url}/{shard.files[0].path}"
    batch = arrow.load(read_reference(files, shard.files[0]), where)
    try:
        checks = arrow.numbers(batch["check"].values.values).reshape(-1, CHECK_BYTES)
        drawn = None
        if "parameters" in batch.schema.names:
            drawn = [one for text in batch["parameters"].to_pylist() for one in json.loads(text)]
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as e:
        raise FormatError(f"{where}: its views are not recorded as they should be: {e!r}") from e
    if len(checks) != shard.rows or (drawn is not None and len(drawn) != shard.rows):
        raise FormatError(f"{where}: it does not record each of its {shard.rows:,} views")
    return RecordedViews(checks, drawn, versions)
