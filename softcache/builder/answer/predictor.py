"""One loaded teacher over its samples: from rows of a fragment to a batch, and from a batch to outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softcache.builder.answer.checks import kind_of
from softcache.builder.answer.jobs import Batch, Job
from softcache.builder.answer.samples import Samples
from softcache.builder.prepare.targets import BuildTarget
from softcache.errors import (
    AlignmentError,
    AugmentationError,
    SoftcacheError,
    TeacherError,
    TransferSetError,
    name_some,
)
from softcache.teachers import Sequences, Teacher
from softcache.teachers.inputs import UNNAMED


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A loaded teacher with the samples that it answers.

    Attributes:
        name: the teacher's name in the recipe.
        teacher: the teacher.
        samples: what gives it samples, or views of them.
        reads: the columns that it reads.
        batch_size: how many rows it answers at once.
        skip_bad: whether bad rows are left out; otherwise they are an error.
    """

    name: str
    teacher: Teacher
    samples: Samples
    reads: Sequence[str]
    batch_size: int
    skip_bad: bool

    def lenient(self) -> Predictor:
        """Return the same predictor, which leaves bad rows out."""
        return replace(self, skip_bad=True)

    def cuts(self, job: Job) -> Iterator[list[int]]:
        """Yield the rows of each batch of a job."""
        for begin in range(0, job.fragment.rows, self.batch_size):
            yield list(range(begin, min(begin + self.batch_size, job.fragment.rows)))

    def load(self, job: Job, rows: list[int]) -> Batch:
        """Read and collate some rows.

        Raises TransferSetError naming bad samples, TeacherError for samples that cannot be collated together.
        """
        try:
            return Batch(job=job, rows=rows, inputs=self._collate(job, rows), bad={}, size=len(rows))
        except SoftcacheError:
            raise
        except Exception as e:
            bad = self._isolate(job, rows)
            if not bad:
                raise self._cannot_collate(job, rows, e) from e
        if not self.skip_bad:
            raise TransferSetError(
                f"teacher {self.name}: {job.listed(bad)}; mend them, or set build.on_bad_sample=skip"
            )
        good = [row for row in rows if row not in bad]
        try:
            inputs = self._collate(job, good) if good else None
        except Exception as e:
            raise self._cannot_collate(job, good, e) from e
        return Batch(job=job, rows=good, inputs=inputs, bad=bad, size=len(rows))

    def predict(self, batch: Batch) -> Mapping[str, Any]:
        """Return the teacher's outputs by name.

        Whatever the teacher raises is a TeacherError, also later while the chunks of sequences are taken.
        """
        try:
            outputs = self.teacher.predict(batch.inputs)
        except Exception as e:
            raise self._raised(e, batch) from e
        if not isinstance(outputs, Mapping):
            raise TeacherError(f"teacher {self.name}: predict returned {kind_of(outputs)}, not answers by output name")
        return {
            name: replace(output, chunks=self._chunks(output, batch)) if isinstance(output, Sequences) else output
            for name, output in outputs.items()
        }

    def output_name(self, outputs: Mapping[str, Any], target: BuildTarget) -> str:
        """Return what the teacher calls a target's answer. Raises TeacherError if there is none."""
        name = target.output if target.output in outputs or target.names_output else UNNAMED
        if name not in outputs:
            there = ", ".join(map(str, outputs))
            raise TeacherError(f"{target.name}: the teacher has no output {target.output!r}; it has {there}")
        return name

    def _collate(self, job: Job, rows: list[int]) -> Any:
        return self.teacher.collate(self.samples.load(job, rows, list(self.reads)))

    def _isolate(self, job: Job, rows: list[int]) -> dict[int, str]:
        """Return the rows that fail on their own, and how."""
        bad = {}
        for row in rows:
            try:
                self._collate(job, [row])
            except (AlignmentError, AugmentationError):
                raise
            except Exception as e:  # noqa: BLE001 - decoders and preprocessing raise anything
                reason = f"cannot be decoded or preprocessed: {type(e).__name__}: {e}"
                bad[row] = reason.encode(errors="replace").decode()
        return bad

    def _chunks(self, output: Sequences, batch: Batch) -> Iterator[tuple[Any, torch.Tensor]]:
        chunks: Iterator[Any] | None = None
        while True:
            try:
                chunks = iter(output.chunks) if chunks is None else chunks
                places, values = next(chunks)
            except StopIteration:
                return
            except Exception as e:
                raise self._raised(e, batch) from e
            yield places, values

    def _cannot_collate(self, job: Job, rows: list[int], error: Exception) -> TeacherError:
        return TeacherError(
            f"teacher {self.name}: samples {name_some(job.names(rows))} cannot be collated together: {error!r}"
        )

    def _raised(self, error: Exception, batch: Batch) -> TeacherError:
        what = str(error) if isinstance(error, SoftcacheError) else f"{type(error).__name__}: {error}"
        return TeacherError(f"teacher {self.name} raised on samples {batch.named}: {what}")
