"""Answers of one item for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.checks import AnswerChecks, kind_of
from softcache.builder.answer.jobs import Batch
from softcache.builder.answer.measuring import measure_answers
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs.fidelity import Errors
from softcache.errors import TeacherError


class RowAnswers:
    """The answers of one target to a fragment's samples. A row without an answer holds the codec's missing values."""

    def __init__(self, target: BuildTarget, rows: int) -> None:
        self.target = target
        self.bad: dict[int, str] = {}
        self.errors: list[Errors] = []
        self._checks = AnswerChecks(target)
        self._columns = {name: column.numpy() for name, column in target.codec.missing(rows).items()}

    @classmethod
    def add_output(cls, together: Sequence[Self], output: Any, batch: Batch, *, skip_bad: bool) -> None:
        """Take the teacher's answer to a batch. Raises TeacherError or CodecError as in `Answers`."""
        for answers in together:
            answers._add(output, batch, skip_bad=skip_bad)

    def sampled(self, output: Any, batch: Batch, share: int) -> Iterator[torch.Tensor]:
        """Yield about `share` of a batch's values, checked as for a build, without keeping any."""
        values = self._checks.values(self._parted(output, batch)[0], len(batch.rows), batch)
        yield values[:: max(len(values) // share, 1)].clone()

    @property
    def items(self) -> int:
        """How many rows there are."""
        return len(next(iter(self._columns.values())))

    def columns(self) -> Mapping[str, Array]:
        """Return the shard's columns, in their order on disk."""
        return self._columns

    def encoded(self) -> dict[str, torch.Tensor]:
        """Return the codec's columns, an item for each row."""
        return {name: torch.from_numpy(column) for name, column in self._columns.items()}

    def _add(self, output: Any, batch: Batch, *, skip_bad: bool) -> None:
        items = len(batch.rows)
        values, given = self._parted(output, batch)
        values = self._checks.values(values, items, batch)
        parts = {p.name: self._checks.part(p, given[p.name], items, batch) for p in self._checks.parts}
        faults = self._checks.faults(values, parts)
        bad = {batch.rows[i]: reason for i, reason in faults.items()}
        self._checks.refuse(bad, batch.job, skip_bad=skip_bad)
        self.bad.update(bad)
        good = [i for i in range(items) if i not in faults]
        values = values[good]
        encoded = self.target.codec.encode(values)
        rows = np.array([batch.rows[i] for i in good], np.int64)
        for name, column in (encoded | {name: part[good] for name, part in parts.items()}).items():
            self._columns[name][rows] = column.cpu().numpy()
        errors = measure_answers(self.target, values, encoded, rows, rows, batch.job)
        self.errors += [] if errors is None else [errors]

    def _parted(self, output: Any, batch: Batch) -> tuple[Any, Mapping[str, Any]]:
        """Return the values of an answer, and its parts. Raises TeacherError unless they are what the task says."""
        if not self._checks.parts:
            return output, {}
        expected = {"values", *(part.name for part in self._checks.parts)}
        if not isinstance(output, Mapping) or set(output) != expected:
            found = ", ".join(map(str, output)) if isinstance(output, Mapping) else kind_of(output)
            raise TeacherError(
                f"{self.target.name}: output {self.target.output!r} is {found}; expected a mapping with "
                f"{', '.join(sorted(expected))} (samples {batch.named})"
            )
        return output["values"], output
