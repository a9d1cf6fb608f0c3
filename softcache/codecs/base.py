"""What a codec is, and the registry of codecs by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from softcache.codecs.temperature import Temperature
from softcache.errors import UnsupportedVersion
from softcache.tasks import TaskSpec

CODECS: dict[str, type[Codec]] = {}


@dataclass(frozen=True)
class Column:
    """A fixed-width stored column: each row has `shape` numbers of `dtype` (a storage dtype of docs/format.md).

    `missing` is what every number of a row without an answer is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    missing: float | int


class Codec(ABC):
    """Turns one target's values into columns, and columns into soft targets.

    A codec belongs to one task. It works on whole batches of rows, on the device where they are.
    """

    name: ClassVar[str]
    task: TaskSpec

    def __init_subclass__(cls) -> None:
        CODECS[cls.name] = cls

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The stored columns, in their order on disk."""

    @abstractmethod
    def faults(self, values: torch.Tensor) -> dict[int, str]:
        """Return the rows of `values` [B, *task.shape] that must not be stored, and why."""

    @abstractmethod
    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn faultless `values` [B, *task.shape] into columns, each [B, *column.shape]."""

    @abstractmethod
    def missing(self, rows: int) -> dict[str, torch.Tensor]:
        """Return columns for `rows` rows without an answer."""

    @abstractmethod
    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the stored values [B, *task.shape] in their own dtype."""

    @abstractmethod
    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log p(T), float32 [B, *task.shape]. Raises TaskError where the task has no temperature."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the codec as in a target's declaration."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any], task: TaskSpec) -> Codec:
        """Read back `to_json`."""


def codec_from_json(data: Mapping[str, Any], task: TaskSpec) -> Codec:
    """Return the codec that a declaration names. Raises UnsupportedVersion for a name that is not known."""
    codec = CODECS.get(str(data.get("name")))
    if codec is None:
        raise UnsupportedVersion(f"codec {data.get('name')!r} is not known here; a newer softcache may read it")
    return codec.from_json(data, task)
