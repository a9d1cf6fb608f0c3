"""One target's answers for a fragment: checked, encoded, measured, and kept until all have come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from softcache.arrays import Array
from softcache.builder.answer.jobs import Batch
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs.fidelity import Errors
from softcache.store.buffers import ListColumn


class Answers(Protocol):
    """The answers of one target to a fragment's samples: `RowAnswers`, or where rows are lists `SequenceAnswers`."""

    @property
    def target(self) -> BuildTarget:
        """The target."""

    @property
    def bad(self) -> dict[int, str]:
        """Why rows have no answer, by row of the fragment."""

    @property
    def errors(self) -> list[Errors]:
        """What was measured of the codec."""

    @property
    def items(self) -> int:
        """How many rows there are, or where rows are lists how many items in all."""

    @classmethod
    def add_output(cls, together: Sequence[Self], output: Any, batch: Batch, *, skip_bad: bool) -> None:
        """Take the teacher's answer to a batch, for all targets that store the same output.

        Raises TeacherError for an answer that is not as the tasks say, CodecError for values that cannot be stored
        unless their samples are to be skipped.
        """

    def sampled(self, output: Any, batch: Batch, share: int) -> Iterator[torch.Tensor]:
        """Yield about `share` of a batch's values, checked as for a build, without keeping any."""

    def columns(self) -> Mapping[str, Array | ListColumn]:
        """Return the shard's columns, in their order on disk."""

    def encoded(self) -> dict[str, torch.Tensor]:
        """Return the codec's columns, the items first."""
