"""Figures about stored values, as JSON: codecs measure them, receipts and commits keep them.

docs/format.md, section 6, defines each of them.
"""

from __future__ import annotations

from typing import NotRequired, Required

from typing_extensions import TypedDict


class MeasuredErrors(TypedDict):
    """How far a codec's answers are from the teacher's (docs/format.md, section 6).

    `rows` is how many rows were measured; `wide` is how many of all rows have finite logits more than 60 nats apart.
    `at` maps temperature and measure to the largest and the mean error; both are None if the largest is infinite.
    """

    rows: int
    wide: int
    at: dict[str, dict[str, list[float | None]]]


class Statistics(TypedDict, total=False):
    """Figures about the finite stored values of some shards, and the errors of their codec."""

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
