"""What a codec is, and the registry of codecs by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import torch

from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, temper, temper_each
from softcache.errors import CodecError, TaskError
from softcache.tasks import TaskSpec

CODECS: dict[str, type[Codec]] = {}
STORED_DTYPES = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class Column:
    """A fixed-width stored column: each row has `shape` numbers of `dtype` (a storage dtype of docs/format.md).

    `missing` is what every number of a row without an answer is. A `companion` is there for people who read the shards
    themselves: no batch needs it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    missing: float | int
    companion: bool = False


class Table(Protocol):
    """What all rows of a target share (docs/format.md, section 6.1): columns by name, a row for each class."""

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        """Return the columns on a device."""


@dataclass(frozen=True, eq=False)
class GivenTable:
    """A table whose columns are there already."""

    columns: Mapping[str, torch.Tensor]

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        return {name: column.to(device) for name, column in self.columns.items()}


class Pilot(Protocol):
    """A teacher that is about to answer a target, from whom the target's table is made."""

    def values(self, items: int) -> torch.Tensor:
        """Return the teacher's values of about so many items, evenly over the samples [n, ...]."""

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and perhaps `bias` [C] of its last layer. Raises TeacherError if it has none."""


@dataclass(frozen=True)
class Codec(ABC):
    """Turns one target's values into columns, and columns into soft targets.

    A codec belongs to one task. It works on whole batches of rows, on the device where they are. Its fields are the
    task and then its settings, each a JSON value.
    """

    name: ClassVar[str] = ""
    on_maps: ClassVar[Literal["whole", "places", "never"]] = "places"
    task: TaskSpec
    table: Table | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __init_subclass__(cls) -> None:
        if cls.name:
            CODECS[cls.name] = cls

    @property
    @abstractmethod
    def value_columns(self) -> tuple[Column, ...]:
        """The columns that hold the values, in their order on disk."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The stored columns, in their order on disk: those of the values, then those of the task's parts."""
        task = self.task
        parts = (Column(part.name, "float32", task.part_shape(part), math.nan) for part in task.stored_parts)
        return *self.value_columns, *parts

    @abstractmethod
    def faults(self, values: torch.Tensor) -> dict[int, str]:
        """Return the rows of `values` [B, *task.shape] that must not be stored, and why."""

    @abstractmethod
    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn faultless `values` [B, *task.shape] into the columns that hold them, each [B, *column.shape]."""

    @abstractmethod
    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the stored values, rows first."""

    @abstractmethod
    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log p(T), float32 [B, *task.shape]. Raises TaskError where the task has no temperature."""

    @property
    def given_shape(self) -> tuple[int, ...]:
        """The shape of one item as the teacher gives it."""
        return self.task.shape

    @property
    def sees_logits(self) -> bool:
        """Whether the teacher gives the logits themselves."""
        return True

    def per_item(self, columns: Mapping[str, torch.Tensor]) -> tuple[Codec, Mapping[str, torch.Tensor]]:
        """Return what decodes single items, and the columns of all of them, [N, ...]: of maps those of every place."""
        return self, columns

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Return values that a teacher gave as logits, float32."""
        return as_logits(values, self.task)

    @property
    def table_name(self) -> str | None:
        """The table that the codec needs, None if it needs none."""
        return None

    @property
    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each column of the table; a `bias` need not be there."""
        return {}

    def make_table(self, pilot: Pilot) -> dict[str, torch.Tensor]:
        """Return the columns of the table.

        Raises TeacherError if the teacher cannot give what it takes, CodecError for a codec without a table.
        """
        raise CodecError(f"codec {self.name} has no table")

    def with_table(self, table: Table) -> Self:
        """Return the codec with its table."""
        return replace(self, table=table)

    @property
    def covers_all(self) -> bool:
        """Whether classes that are not stored by themselves have a share of the rest, and not none at all."""
        return True

    @property
    def can_be_measured(self) -> bool:
        """Whether the teacher gives all that an answer could be compared with."""
        return True

    @property
    def has_shape(self) -> bool:
        """Whether classes that are not stored by themselves have shares of their own in the rest."""
        return False

    @property
    def has_all_values(self) -> bool:
        """Whether the stored values are one for each class, or number of the row."""
        return True

    def log_outcomes(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log p(T) and log(1 - p(T)) of classes that are each by itself, float32 [B, C, 2], both precise."""
        logits = as_logits(self.values(columns), self.task)
        return torch.stack([temper_each(logits, temperature), temper_each(-logits, temperature)], -1)

    def sparse_log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> SparseLogProbs | None:
        """Return log p(T) of the stored classes and of the others' mass, None where every class is stored."""
        return None

    def compared(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return numbers [B, N] that are nearly the same whenever the values were, however ties fell."""
        return self.values(columns)

    def finer(self) -> Iterator[Codec]:
        """Yield the codec with settings that take more bytes and err less, the least first."""
        yield from ()

    def missing(self, rows: int) -> dict[str, torch.Tensor]:
        """Return columns for `rows` rows without an answer."""
        return {c.name: torch.full((rows, *c.shape), c.missing, dtype=STORED_DTYPES[c.dtype]) for c in self.columns}

    @classmethod
    def settings(cls) -> list[str]:
        """Return the names of the codec's settings."""
        return [field.name for field in fields(cls) if field.name not in ("task", "table")]

    def to_json(self) -> dict[str, Any]:
        """Return the codec as in a target's declaration."""
        return {"name": self.name} | {setting: getattr(self, setting) for setting in self.settings()}


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


def require_temperature(task: TaskSpec) -> None:
    """Raise TaskError if a task has no temperature."""
    if not task.has_temperature:
        raise TaskError(f"a {task.kind} target has no temperature; use .values")


def table_columns(codec: Codec, device: torch.device) -> Mapping[str, torch.Tensor]:
    """Return the columns of a codec's table on a device. Raises CodecError if it has not been given."""
    if codec.table is None:
        raise CodecError(f"codec {codec.name} needs its table {codec.table_name!r}; read the target through its cache")
    return codec.table.on(device)


def as_logits(values: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Return values of a task as logits, float32: probabilities as their logs, with sigmoid as log(p / (1 - p))."""
    values = values.detach().float()
    if task.value_kind != "probs":
        return values
    return values.log() if task.activation == "softmax" else torch.logit(values)


def log_probs_of(values: torch.Tensor, task: TaskSpec, temperature: Temperature) -> torch.Tensor:
    """Return log p(T), float32, of values [B, C, ...] of a task. Raises TaskError if it has no temperature."""
    require_temperature(task)
    return tempered(as_logits(values, task), task, temperature)


def tempered(logits: torch.Tensor, task: TaskSpec, temperature: Temperature) -> torch.Tensor:
    """Return log p(T), float32, of logits [B, C, ...] of a task that has a temperature."""
    return temper(logits, temperature) if task.activation == "softmax" else temper_each(logits, temperature)


def map_items(values: torch.Tensor) -> torch.Tensor:
    """Return the items of maps [B, C, H, W], place after place: [B * H * W, C]."""
    return values.movedim(1, -1).flatten(0, -2)
