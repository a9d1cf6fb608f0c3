"""One target's answers for a fragment: checked, encoded, measured against the teacher, and kept until all are there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch

from softcache.builder.jobs import Batch, Job
from softcache.builder.targets import BuildTarget
from softcache.codecs.base import as_logits, map_items
from softcache.codecs.faults import like_probs, part_faults
from softcache.codecs.fidelity import SHARE, Errors, better_settings, measure, wide_rows
from softcache.errors import CodecError, TeacherError, name_some
from softcache.kinds import Part
from softcache.store.buffers import ListColumn

Array = np.ndarray[Any, Any]
# So many logits do not look like probabilities by chance; between 0 and 1 each by itself may well be.
ENOUGH_NUMBERS = {"softmax": 32, "sigmoid": 1024}
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
        self._like_probs: int | None = 0

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
        if not is_dense(values):
            raise TeacherError(f"{name}: output {self.target.output!r} is {kind_of(values)}; expected a dense tensor")
        expected = (items, *self.target.codec.given_shape)
        if tuple(values.shape) != expected:
            what = "positions" if task.is_list else "samples"
            raise TeacherError(
                f"{name}: output {self.target.output!r} is {list(values.shape)} for {items} {what}; the task says "
                f"{list(expected)} (samples {batch.named})"
            )
        if values.dtype not in FLOATS:
            raise TeacherError(
                f"{name}: output {self.target.output!r} is {values.dtype}; expected floating-point values"
            )
        self._refuse_probs(values, batch)
        return values

    def _refuse_probs(self, values: torch.Tensor, batch: Batch) -> None:
        """Raise TeacherError if what is declared logits has been probabilities so far."""
        task = self.target.task
        declared = task.value_kind == "logits" and self.target.codec.sees_logits
        if self._like_probs is None or not declared or not values.numel():
            return
        if not like_probs(values, task):
            self._like_probs = None
            return
        self._like_probs += values.numel()
        if self._like_probs >= ENOUGH_NUMBERS[str(task.activation)]:
            how = "each row sums to 1" if task.activation == "softmax" else "all are between 0 and 1"
            raise TeacherError(
                f"{self.target.name}: output {self.target.output!r} is declared logits and looks like probabilities "
                f"({how}; samples {batch.named}); declare value_kind: probs, or answer what goes into the softmax"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the target's task."""
        return self.target.task.stored_parts

    def checked_part(self, part: Part, given: Any, items: int, batch: Batch) -> torch.Tensor:
        """Return a part of so many items as float32 [items, ...]. Raises TeacherError."""
        try:
            values = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as e:
            raise TeacherError(f"{self.target.name}: {part.name} is {kind_of(given)}: {e}") from e
        expected = (items, *self.target.task.part_shape(part))
        if not is_dense(values) or tuple(values.shape) != expected or values.is_complex() or values.dtype == torch.bool:
            raise TeacherError(
                f"{self.target.name}: {part.name} is {values.dtype} {list(values.shape)}; expected numbers "
                f"{list(expected)} (samples {batch.named})"
            )
        return values.detach().float()

    def faults_of_parts(self, parts: Mapping[str, torch.Tensor]) -> dict[int, str]:
        """Return the items whose parts must not be stored, and why."""
        found: dict[int, str] = {}
        for part in self.parts:
            found |= part_faults(parts[part.name], part)
        return found

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

        `numbers` are the items' numbers in the shard, `rows` the rows of the fragment that they belong to. The places
        of a map are items.
        """
        target = self.target
        if not target.task.has_temperature or not target.codec.can_be_measured or not len(numbers):
            return
        codec, columns = target.codec.per_item(encoded)
        share = SHARE
        if target.task.is_map:
            places, share, values = math.prod(target.task.shape[1:]), SHARE + 1, map_items(values)
            numbers, rows = (numbers[:, None] * places + np.arange(places)).ravel(), rows.repeat(places)
        has_range = codec.sees_logits and codec.task.activation == "softmax"
        wide = wide_rows(as_logits(values, codec.task)).nonzero()[:, 0].tolist() if has_range else []
        picked = sorted({*np.flatnonzero(numbers % share == 0).tolist(), *wide[:1]})
        if not picked:
            self.errors.append(Errors(0, len(wide), {}))
            return
        errors = measure(codec, values[picked], {n: column[picked] for n, column in columns.items()}, len(wide))
        self.errors.append(errors)
        if target.max_error is not None and errors.worst > target.max_error:
            ids = name_some(job.names(dict.fromkeys(rows[picked].tolist())))
            raise CodecError(
                f"{target.name}: an error of {errors.worst:.2g} at one of the samples {ids}; max_error is "
                f"{target.max_error:g}; {better_settings(codec, values[picked], target.max_error)}"
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
        items = len(batch.rows)
        values, given = self.parted(output, batch)
        values = self.checked(values, items, batch)
        parts = {part.name: self.checked_part(part, given[part.name], items, batch) for part in self.parts}
        faults = self.target.codec.faults(values) | self.faults_of_parts(parts)
        self.refuse({batch.rows[i]: reason for i, reason in faults.items()}, batch.job, skip_bad=skip_bad)
        good = [i for i in range(items) if i not in faults]
        values = values[good]
        encoded = self.target.codec.encode(values)
        rows = np.array([batch.rows[i] for i in good], np.int64)
        for name, column in (encoded | {name: part[good] for name, part in parts.items()}).items():
            self._columns[name][rows] = column.cpu().numpy()
        self.measure(values, encoded, rows, rows, batch.job)

    def parted(self, output: Any, batch: Batch) -> tuple[Any, Mapping[str, Any]]:
        """Return the values of an answer, and its parts. Raises TeacherError unless they are what the task says."""
        if not self.parts:
            return output, {}
        expected = {"values", *(part.name for part in self.parts)}
        if not isinstance(output, Mapping) or set(output) != expected:
            found = ", ".join(map(str, output)) if isinstance(output, Mapping) else kind_of(output)
            raise TeacherError(
                f"{self.target.name}: output {self.target.output!r} is {found}; expected a mapping with "
                f"{', '.join(sorted(expected))} (samples {batch.named})"
            )
        return output["values"], output

    @property
    def items(self) -> int:
        return len(next(iter(self._columns.values())))

    def columns(self) -> Mapping[str, Array]:
        return self._columns

    def encoded(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(column) for name, column in self._columns.items()}


def is_dense(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a value is a tensor that has its numbers in it, in the usual way."""
    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_nested
    )


def kind_of(value: Any) -> str:
    """Return what a value is, for messages."""
    return f"a {value.layout} {value.device} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
