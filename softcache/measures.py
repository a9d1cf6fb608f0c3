"""Figures about stored values, as JSON: codecs measure them, receipts and commits keep them.

docs/format.md, section 6, defines each of them.
"""

from __future__ import annotations

from typing import Annotated, NotRequired, Required

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

# Members that are not listed here are kept unchanged, as in store/declarations.py.
_open = with_config(ConfigDict(extra="allow"))


def _with_variation(found: dict[str, Extent]) -> dict[str, Extent]:
    if "tv" not in found:
        raise ValueError("the errors at a temperature lack tv")
    return found


# The largest and the mean error.
Extent = Annotated[list[float | None], Field(min_length=2, max_length=2)]


@_open
class MeasuredErrors(TypedDict):
    """How far a codec's answers are from the teacher's (docs/format.md, section 6).

    `rows` is how many rows were measured; `wide` is how many of all rows have finite logits more than 60 nats apart.
    `at` maps temperature and measure to the largest and the mean error; both are None if the largest is infinite.
    """

    rows: int
    wide: int
    at: dict[str, Annotated[dict[str, Extent], AfterValidator(_with_variation)]]


@_open
class Statistics(TypedDict, total=False):
    """Figures about the finite stored values of some shards, and the errors of their codec."""

    positions: int
    count: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    errors: NotRequired[MeasuredErrors]


@_open
class ShardStatistics(Statistics, total=False):
    """The statistics of one shard, and how many of its rows have an answer."""

    valid: Required[Annotated[int, Field(strict=True)]]
