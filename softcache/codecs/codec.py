"""Codecs: what is stored of a target's values, and how values become columns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch

from softcache.codecs.columns import Column, missing_columns
from softcache.codecs.decoder import Decoder
from softcache.codecs.faults import PROBS_SUM_TOLERANCE
from softcache.codecs.logits import as_logits
from softcache.codecs.tables import Table, TableSpec
from softcache.errors import CodecError
from softcache.tasks import TaskSpec

CODECS: dict[str, type[Codec]] = {}


@dataclass(frozen=True)
class CodecTraits:
    """How codecs differ for those who use them.

    Attributes:
        sees_logits: whether the teacher gives the logits themselves (and not, say, hidden states).
        can_be_measured: whether the teacher gives everything that an answer could be compared with.
        has_all_values: whether the stored values are one for each class, or for each number of the row.
    """

    sees_logits: bool = True
    can_be_measured: bool = True
    has_all_values: bool = True


@dataclass(frozen=True)
class Codec(ABC):
    """Describes how one target's values are stored, and encodes them; its `decoder` reads them back.

    A codec belongs to one task. It works on whole batches of rows, on the device where they are. Its fields are the
    task and then its settings, each a JSON value. A subclass with a `name` is found by that name once it is imported.
    """

    name: ClassVar[str] = ""
    on_maps: ClassVar[Literal["whole", "places", "never"]] = "places"
    task: TaskSpec
    table: Table | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __init_subclass__(cls) -> None:
        if cls.name:
            CODECS[cls.name] = cls

    # What it is.

    @classmethod
    def settings(cls) -> list[str]:
        """Return the names of the codec's settings."""
        return [f.name for f in fields(cls) if f.name not in ("task", "table")]

    def to_json(self) -> dict[str, Any]:
        """Return the codec as in a target's declaration: its name and its settings."""
        return {"name": self.name} | {setting: getattr(self, setting) for setting in self.settings()}

    @property
    @abstractmethod
    def value_columns(self) -> tuple[Column, ...]:
        """The columns that hold the values, in their order on disk."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The stored columns, in their order on disk: those of the values, then those of the task's parts."""
        task = self.task
        parts = (
            Column(name=part.name, dtype="float32", shape=task.part_shape(part), missing=math.nan)
            for part in task.stored_parts
        )
        return *self.value_columns, *parts

    @property
    def traits(self) -> CodecTraits:
        """How it differs from other codecs."""
        return CodecTraits()

    @property
    def given_shape(self) -> tuple[int, ...]:
        """The shape of one item as the teacher gives it."""
        return self.task.shape

    @property
    def item(self) -> Codec:
        """What stores one item: for a codec of maps that of one place, otherwise the codec itself."""
        return self

    @property
    def table_spec(self) -> TableSpec | None:
        """The table that it needs, None if it needs none."""
        return None

    def with_table(self, table: Table) -> Self:
        """Return the codec with its table."""
        return replace(self, table=table)

    def finer(self) -> Iterator[Codec]:
        """Yield the codec with settings that take more bytes and are more precise, the smallest first."""
        yield from ()

    # How values become columns.

    @abstractmethod
    def faults(self, values: torch.Tensor) -> dict[int, str]:
        """Return the rows of `values` [B, *given_shape] that must not be stored, each with the reason."""

    @abstractmethod
    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn faultless `values` [B, *given_shape] into the columns that hold them, each [B, *column.shape]."""

    def missing(self, rows: int) -> dict[str, torch.Tensor]:
        """Return the columns of `rows` rows without an answer."""
        return missing_columns(self.columns, rows)

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits of values as the teacher gave them, float32."""
        return as_logits(values, self.task)

    def contradictions(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return where stored columns of items with an answer, [N, ...] each, are none that `encode` writes.

        The result is bool [N] by reason. For a codec of maps, ask that of its places. In general, values must be
        finite, unless the task lets classes be ruled out.
        """
        values = self.decoder.values(columns).flatten(1)
        found = {"a value that is NaN or +Inf": (values.isnan() | (values == torch.inf)).any(1)}
        if not self.task.allow_masked:
            found["a value that is -Inf"] = (values == -torch.inf).any(1)
        if self.task.value_kind == "probs":
            most = 1 + (PROBS_SUM_TOLERANCE if self.task.activation == "softmax" else 0)
            found["a probability outside [0, 1]"] = ((values < 0) | (values > most)).any(1)
        return found

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """What turns the columns back into values and distributions."""


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise CodecError unless a setting is an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise CodecError(f"{name} is {value!r}; expected an integer from {low} to {high:,}")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise CodecError unless a setting is one of `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise CodecError(f"{name} is {value!r}; expected one of {', '.join(map(str, choices))}")


def require_distribution(codec: Codec) -> None:
    """Raise CodecError if the codec's task is not a distribution over classes."""
    if codec.task.activation != "softmax":
        raise CodecError(f"codec {codec.name} stores distributions over classes, not {codec.task.kind}")
