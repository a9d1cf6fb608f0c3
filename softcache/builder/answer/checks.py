"""Checks of what teachers answer: shapes, dtypes, and values that must not be stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch

from softcache.builder.answer.jobs import Batch, Job
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs.faults import like_probs, part_faults
from softcache.errors import CodecError, TeacherError
from softcache.kinds import Part

# So many logits do not look like probabilities by chance. Single values between 0 and 1 are common, so sigmoid needs
# more of them than rows that sum to 1 do.
ENOUGH_NUMBERS = {"softmax": 32, "sigmoid": 1024}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class AnswerChecks:
    """Checks the answers to one target, batch after batch."""

    def __init__(self, target: BuildTarget) -> None:
        self.target = target
        self._like_probs: int | None = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the target's task."""
        return self.target.task.stored_parts

    def values(self, values: Any, items: int, batch: Batch) -> torch.Tensor:
        """Return values of `items` items if they are what the task says. Raises TeacherError."""
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

    def part(self, part: Part, given: Any, items: int, batch: Batch) -> torch.Tensor:
        """Return a part of `items` items as float32 [items, ...]. Raises TeacherError."""
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

    def faults(self, values: torch.Tensor, parts: Mapping[str, torch.Tensor]) -> dict[int, str]:
        """Return the items whose values or parts must not be stored, each with the reason."""
        found = self.target.codec.faults(values)
        for part in self.parts:
            found |= part_faults(parts[part.name], part)
        return found

    def refuse(self, bad: dict[int, str], job: Job, *, skip_bad: bool) -> None:
        """Raise CodecError naming bad rows, unless they are to be skipped."""
        if bad and not skip_bad:
            hint = "mend the teacher or the samples, or set build.on_bad_sample=skip"
            raise CodecError(f"{self.target.name}: {job.listed(bad)}; {hint}")

    def _refuse_probs(self, values: torch.Tensor, batch: Batch) -> None:
        """Raise TeacherError if what is declared logits has been probabilities so far."""
        task = self.target.task
        declared = task.value_kind == "logits" and self.target.codec.traits.sees_logits
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
                f"({how}; samples {batch.named}); declare value_kind: probs, or answer the input of the softmax"
            )


def is_dense(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a value is an ordinary tensor that holds its numbers: not sparse, nested or on the meta device."""
    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_nested
    )


def kind_of(value: Any) -> str:
    """Return what a value is, for messages."""
    return f"a {value.layout} {value.device} tensor" if isinstance(value, torch.Tensor) else type(value).__name__
