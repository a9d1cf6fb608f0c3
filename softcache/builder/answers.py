"""One target's answers for a fragment: checked, encoded, measured against the teacher, and kept until all are there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from softcache.builder.jobs import Batch, Job
from softcache.builder.targets import BuildTarget
from softcache.codecs.base import as_logits
from softcache.codecs.fidelity import SHARE, Errors, better_settings, measure, wide_rows
from softcache.errors import CodecError, TeacherError, name_some
from softcache.store.buffers import ListColumn

Array = np.ndarray[Any, Any]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Answers(ABC):
    """Answers of one target to a fragment's samples.

    Attributes:
        target: the target.
        bad: why rows have no answer, by row of the fragment.
        errors: what was measured.
    """

    def __init__(self, target: BuildTarget) -> None:
        self.target = target
        self.bad: dict[int, str] = {}
        self.errors: list[Errors] = []

    @property
    @abstractmethod
    def items(self) -> int:
        """How many rows, of sequences positions, there are."""

    @abstractmethod
    def columns(self) -> Mapping[str, Array | ListColumn]:
        """Return the shard's columns, in their order on disk."""

    @abstractmethod
    def encoded(self) -> dict[str, torch.Tensor]:
        """Return the codec's columns, for each row or each position one item."""

    def checked(self, values: Any, items: int, batch: Batch) -> torch.Tensor:
        """Return values of so many items if they are what the task says. Raises TeacherError."""
        name, task = self.target.name, self.target.task
        if not isinstance(values, torch.Tensor) or values.layout != torch.strided or values.is_meta or values.is_nested:
            raise TeacherError(f"{name}: output {self.target.output!r} is {kind_of(values)}; expected a dense tensor")
        expected = (items, *self.target.codec.given_shape)
        if tuple(values.shape) != expected:
            what = "positions" if task.is_sequence else "samples"
            raise TeacherError(
                f"{name}: output {self.target.output!r} is {list(values.shape)} for {items} {what}; the task says "
                f"{list(expected)} (samples {batch.named})"
            )
        if values.dtype not in FLOATS:
            raise TeacherError(
                f"{name}: output {self.target.output!r} is {values.dtype}; expected floating-point values"
            )
        return values

    def refuse(self, bad: dict[int, str], job: Job, *, skip_bad: bool) -> None:
        """Remember bad rows, or raise CodecError naming them."""
        if bad and not skip_bad:
            hint = "mend the teacher or the samples, or set build.on_bad_sample=skip"
            raise CodecError(f"{self.target.name}: {job.listed(bad)}; {hint}")
        self.bad.update(bad)

    def measure(
        self, values: torch.Tensor, encoded: Mapping[str, torch.Tensor], numbers: Array, rows: Array, job: Job
    ) -> None:
        """Compare a fixed share of the items, and one of them that is wide, with what the codec answers.

        `numbers` are the items' numbers in the shard, `rows` the rows of the fragment that they belong to.
        """
        target = self.target
        if not target.task.has_temperature or not len(numbers):
            return
        wide = wide_rows(as_logits(values, target.task)).nonzero()[:, 0].tolist() if target.codec.sees_logits else []
        picked = sorted({*np.flatnonzero(numbers % SHARE == 0).tolist(), *wide[:1]})
        if not picked:
            self.errors.append(Errors(0, len(wide), {}))
            return
        errors = measure(target.codec, values[picked], {n: column[picked] for n, column in encoded.items()}, len(wide))
        self.errors.append(errors)
        if target.max_error is not None and errors.worst > target.max_error:
            ids = name_some(job.ids(dict.fromkeys(rows[picked].tolist())))
            raise CodecError(
                f"{target.name}: an error of {errors.worst:.2g} at one of the samples {ids}; max_error is "
                f"{target.max_error:g}; {better_settings(target.codec, values[picked], target.max_error)}"
            )


class RowAnswers(Answers):
    """Answers of one item a row; rows without an answer hold what the codec says is missing."""

    def __init__(self, target: BuildTarget, rows: int) -> None:
        super().__init__(target)
        self._columns = {name: column.numpy() for name, column in target.codec.missing(rows).items()}

    def add(self, output: Any, batch: Batch, *, skip_bad: bool) -> None:
        """Take the teacher's answer to a batch.

        Raises TeacherError for one that is not as the task says, CodecError for values that cannot be stored unless
        their samples are to be skipped.
        """
        values = self.checked(output, len(batch.rows), batch)
        faults = self.target.codec.faults(values)
        self.refuse({batch.rows[i]: reason for i, reason in faults.items()}, batch.job, skip_bad=skip_bad)
        good = [i for i in range(len(batch.rows)) if i not in faults]
        values = values[good]
        encoded = self.target.codec.encode(values)
        rows = np.array([batch.rows[i] for i in good], np.int64)
        for name, column in encoded.items():
            self._columns[name][rows] = column.cpu().numpy()
        self.measure(values, encoded, rows, rows, batch.job)

    @property
    def items(self) -> int:
        return len(next(iter(self._columns.values())))

    def columns(self) -> Mapping[str, Array]:
        return self._columns

    def encoded(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(column) for name, column in self._columns.items()}


def kind_of(value: Any) -> str:
    """Return what a value is, for messages."""
    return f"a {value.layout} {value.device} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
