"""Adapters: a teacher's settings in a recipe, and what is known about it before it is loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from softcache.settings import Settings
from softcache.teachers.protocol import Fingerprint, Teacher


@dataclass(frozen=True)
class OutputSpec:
    """What is known about one of a teacher's outputs; None where it is unknown. A task that contradicts it is refused.

    Attributes:
        kind: the kind of task that the output answers.
        shape: the shape of one row, or for lists of one item.
        classes: the number of classes.
        labels: the names of the classes, in order.
        value_kind: what the numbers are: `logits`, `log_probs` or `probs`.
    """

    kind: str | None = None
    _: KW_ONLY
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    labels: tuple[str, ...] | None = None
    value_kind: str | None = None


@dataclass(frozen=True)
class Description:
    """What an adapter says about its teacher.

    Attributes:
        fingerprint: what decides its answers.
        outputs: what is known about its outputs, by name. The teacher may have others.
        vocabulary: for a language model, its tokenizer's mapping (docs/format.md, section 3.2).
        libraries: the distributions whose versions are recorded, besides torch and numpy.
    """

    fingerprint: Fingerprint
    outputs: Mapping[str, OutputSpec] = field(default_factory=dict)
    vocabulary: pa.RecordBatch | None = None
    libraries: tuple[str, ...] = ()


class Adapter(Settings):
    """The settings of one teacher. Paths in them are relative to `folder`, the recipe's own, or `package:NAME`.

    To write an adapter, subclass this. A recipe then names it as `adapter: module:Class`.
    """

    adapter: str

    @property
    def columns(self) -> list[str] | None:
        """The columns of the transfer set that the teacher reads; None for all but the id and the kept columns."""
        return None

    @abstractmethod
    def describe(self, folder: Path) -> Description:
        """Return what is known about the teacher without loading it.

        Raises RecipeError or TeacherError if a part of it cannot be read, MissingExtra if a library is not installed.
        """

    @abstractmethod
    def load(self, folder: Path, device: str) -> Teacher:
        """Load the teacher on a device. Raises the same errors as `describe`."""

    def output_for(self, kind: str, codec: str) -> str | None:
        """Return the output for a task that names none; None means the output with the task's own name."""
        return None

    def declares(self, output: str, codec: str) -> dict[str, Any]:
        """Return settings that decide this output's answers in this codec. Only that target declares them."""
        return {}
