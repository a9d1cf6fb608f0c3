"""Figures of stored values as JSON: what codecs measure, and receipts and commits keep (docs/format.md, section 6)."""

from __future__ import annotations

from typing import NotRequired, Required

from typing_extensions import TypedDict


class MeasuredErrors(TypedDict):
    """How far a codec is off over some rows: by temperature and measure, the largest error and the mean one.

    Both are None where the error is infinite.
    """

    rows: int
    wide: int
    at: dict[str, dict[str, list[float | None]]]


class Statistics(TypedDict, total=False):
    """Figures over the finite stored values of some shards, and the errors of their codec."""

    positions: int
    count: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    errors: NotRequired[MeasuredErrors]


class ShardStatistics(Statistics, total=False):
    """The statistics of one shard, and how many of its rows have an answer."""

    valid: Required[int]
