"""What an adapter is: the settings of a recipe that lead to a teacher, and what is known of it before it is loaded."""

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
    """What is known of one of a teacher's outputs; None where it is not. A task that says otherwise is refused.

    Attributes:
        kind: the kind of task that it answers.
        shape: the shape of one row, of lists that of one item.
        classes: how many classes it has.
        labels: their names in order.
        value_kind: what its numbers are.
    """

    kind: str | None = None
    _: KW_ONLY
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    labels: tuple[str, ...] | None = None
    value_kind: str | None = None


@dataclass(frozen=True)
class Description:
    """A teacher as it declares itself.

    Attributes:
        fingerprint: what decides its answers.
        outputs: what is known about its outputs, by name; it may have further outputs.
        vocabulary: of a language model, its tokenizer's mapping (docs/format.md, section 3.2).
        libraries: the distributions, besides torch and numpy, whose versions are recorded.
    """

    fingerprint: Fingerprint
    outputs: Mapping[str, OutputSpec] = field(default_factory=dict)
    vocabulary: pa.RecordBatch | None = None
    libraries: tuple[str, ...] = ()


class Adapter(Settings):
    """The settings of one teacher. Paths in them are relative to `folder`, the recipe's, or `package:NAME`.

    To make an adapter is to subclass this; a recipe names it as `adapter: module:Class`.
    """

    adapter: str

    @property
    def columns(self) -> list[str] | None:
        """The columns of the transfer set that it reads; None for all but the id and the kept ones."""
        return None

    @abstractmethod
    def describe(self, folder: Path) -> Description:
        """Return what is known of the teacher without loading it.

        Raises RecipeError or TeacherError if something of it cannot be read, MissingExtra where a library is missing.
        """

    @abstractmethod
    def load(self, folder: Path, device: str) -> Teacher:
        """Load the teacher on a device. Raises as `describe`."""

    def output_for(self, kind: str, codec: str) -> str | None:
        """Return which output answers a task that names none, None for the one called like the task."""
        return None

    def declares(self, output: str, codec: str) -> dict[str, Any]:
        """Return what further settings decide an output's answers in a codec, to be declared with that target alone."""
        return {}
