"""One teacher over its fragments: reading, predicting and writing overlap, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from softcache.builder.targets import BuildTarget
from softcache.codecs.base import as_logits
from softcache.codecs.fidelity import SHARE, Errors, better_settings, measure, wide_rows
from softcache.errors import CodecError, SoftcacheError, TeacherError, TransferSetError, counted, name_some
from softcache.store.plan import Fragment
from softcache.teachers import Teacher
from softcache.teachers.torch_module import UNNAMED
from softcache.transfer import TransferSet

Array = np.ndarray[Any, Any]
BATCHES_AHEAD = 4
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHARDS_BEHIND = 4


@dataclass(frozen=True, eq=False)
class Job:
    """A fragment, where its samples are in the transfer set, and the targets that are to be made for it."""

    fragment: Fragment
    positions: Array
    targets: Sequence[BuildTarget]

    def ids(self, rows: Iterable[int]) -> list[Any]:
        """Return the sample ids of rows of the fragment."""
        return [self.fragment.sample_ids[row].as_py() for row in rows]


@dataclass(eq=False)
class Answers:
    """One target's answers for a whole fragment: encoded columns [rows, ...] on the host, and why rows are missing."""

    target: BuildTarget
    columns: dict[str, Array]
    bad: dict[int, str] = field(default_factory=dict)
    errors: list[Errors] = field(default_factory=list)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the columns as tensors that share their memory."""
        return {name: torch.from_numpy(column) for name, column in self.columns.items()}

    @classmethod
    def empty(cls, target: BuildTarget, rows: int) -> Answers:
        """Return answers that are all missing."""
        return cls(target, {name: column.numpy() for name, column in target.codec.missing(rows).items()})


@dataclass(frozen=True, eq=False)
class Batch:
    """A collated batch: its job, its good rows in the fragment, the teacher's input, and why other rows are bad."""

    job: Job
    rows: list[int]
    inputs: Any
    bad: dict[int, str]
    last: bool
    size: int


class Runner:
    """Runs one loaded teacher."""

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        transfer_set: TransferSet,
        reads: Sequence[str],
        batch_size: int,
        *,
        skip_bad: bool = False,
    ) -> None:
        self._name, self._teacher, self._transfer_set, self._reads = name, teacher, transfer_set, list(reads)
        self._batch_size, self._skip_bad = batch_size, skip_bad

    def run(
        self,
        jobs: Sequence[Job],
        write: Callable[[Job, Answers], None],
        stop: threading.Event,
        progress: Callable[[int], object],
    ) -> None:
        """Answer every job and hand each target's answers to `write`, in another thread.

        When `stop` is set, fragments that have begun are finished and no other begins.
        """
        with ExitStack() as stack:
            reader = stack.enter_context(ThreadPoolExecutor(1, "softcache-read"))
            writer = stack.enter_context(ThreadPoolExecutor(1, "softcache-write"))
            writing: deque[Future[None]] = deque()
            answers: dict[str, Answers] = {}
            try:
                for batch in _ahead(reader, self._batches(jobs, stop), BATCHES_AHEAD):
                    if not answers:
                        rows = batch.job.fragment.rows
                        answers = {t.name: Answers.empty(t, rows) for t in batch.job.targets}
                    self._answer(batch, answers)
                    progress(batch.size)
                    if batch.last:
                        for done in answers.values():
                            while len(writing) >= SHARDS_BEHIND:
                                writing.popleft().result()
                            writing.append(writer.submit(write, batch.job, done))
                        answers = {}
                for future in writing:
                    future.result()
            except BaseException:
                # What is answered is still written on leaving; what is not yet read is not begun.
                reader.shutdown(wait=False, cancel_futures=True)
                raise

    def predict_rows(self, job: Job, rows: list[int]) -> dict[str, Answers]:
        """Answer some rows of a fragment alone; the other rows of the result are missing, and so are bad ones."""
        lenient = copy(self)
        lenient._skip_bad = True
        answers = {t.name: Answers.empty(t, job.fragment.rows) for t in job.targets}
        lenient._answer(lenient._load(job, rows, last=True), answers)
        return answers

    def _batches(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Callable[[], Batch]]:
        for job in jobs:
            if stop.is_set():
                return
            rows = job.fragment.rows
            for begin in range(0, rows, self._batch_size):
                end = min(begin + self._batch_size, rows)
                yield partial(self._load, job, list(range(begin, end)), end == rows)

    def _load(self, job: Job, rows: list[int], last: bool) -> Batch:
        try:
            return Batch(job, rows, self._collate(job, rows), {}, last, len(rows))
        except SoftcacheError:
            raise
        except Exception as e:
            bad = self._isolate(job, rows)
            if not bad:
                ids = name_some(job.ids(rows))
                raise TeacherError(f"teacher {self._name}: samples {ids} cannot be collated together: {e!r}") from e
        if not self._skip_bad:
            raise TransferSetError(
                f"teacher {self._name}: {_listed(job, bad)}; mend them, or set build.on_bad_sample=skip"
            )
        good = [row for row in rows if row not in bad]
        try:
            return Batch(job, good, self._collate(job, good) if good else None, bad, last, len(rows))
        except Exception as e:
            ids = name_some(job.ids(good))
            raise TeacherError(f"teacher {self._name}: samples {ids} cannot be collated together: {e!r}") from e

    def _collate(self, job: Job, rows: list[int]) -> Any:
        return self._teacher.collate(self._transfer_set.samples(job.positions[rows], self._reads))

    def _isolate(self, job: Job, rows: list[int]) -> dict[int, str]:
        """Return the rows that fail alone, and how."""
        bad = {}
        for row in rows:
            try:
                self._collate(job, [row])
            except Exception as e:  # noqa: BLE001 - decoders and preprocessing raise anything
                reason = f"cannot be decoded or preprocessed: {type(e).__name__}: {e}"
                bad[row] = reason.encode(errors="replace").decode()
        return bad

    def _answer(self, batch: Batch, answers: dict[str, Answers]) -> None:
        """Predict one batch and put it into `answers`."""
        for answer in answers.values():
            answer.bad.update(batch.bad)
        if not batch.rows:
            return
        try:
            outputs = self._teacher.predict(batch.inputs)
        except SoftcacheError:
            raise
        except Exception as e:
            ids = name_some(batch.job.ids(batch.rows))
            raise TeacherError(f"teacher {self._name} raised on samples {ids}: {type(e).__name__}: {e}") from e
        for answer in answers.values():
            values = self._output(outputs, answer.target, batch)
            self._store(values, answer, batch)

    def _output(self, outputs: Any, target: BuildTarget, batch: Batch) -> torch.Tensor:
        name = target.output if target.output in outputs else UNNAMED
        if name not in outputs:
            there = ", ".join(map(str, outputs))
            raise TeacherError(f"{target.name}: the teacher has no output {target.output!r}; it has {there}")
        values = outputs[name]
        if not isinstance(values, torch.Tensor) or values.layout != torch.strided or values.is_meta or values.is_nested:
            raise TeacherError(f"{target.name}: output {name!r} is {_kind(values)}; expected a dense tensor")
        expected = (len(batch.rows), *target.task.shape)
        if tuple(values.shape) != expected:
            raise TeacherError(
                f"{target.name}: output {name!r} is {list(values.shape)} for {len(batch.rows)} samples; the task says "
                f"{list(expected)} (samples {name_some(batch.job.ids(batch.rows))})"
            )
        if values.dtype not in FLOATS:
            raise TeacherError(f"{target.name}: output {name!r} is {values.dtype}; expected floating-point values")
        return values

    def _store(self, values: torch.Tensor, answer: Answers, batch: Batch) -> None:
        faults = answer.target.codec.faults(values)
        bad = {batch.rows[i]: reason for i, reason in faults.items()}
        if bad and not self._skip_bad:
            hint = "mend the teacher or the samples, or set build.on_bad_sample=skip"
            raise CodecError(f"{answer.target.name}: {_listed(batch.job, bad)}; {hint}")
        answer.bad.update(bad)
        good = [i for i in range(len(batch.rows)) if i not in faults]
        values = values[good]
        encoded = answer.target.codec.encode(values)
        rows = [batch.rows[i] for i in good]
        for name, column in encoded.items():
            answer.columns[name][rows] = column.cpu().numpy()
        if answer.target.task.has_temperature and rows:
            self._measure(values, encoded, answer, batch.job, rows)

    def _measure(
        self, values: torch.Tensor, encoded: dict[str, torch.Tensor], answer: Answers, job: Job, rows: list[int]
    ) -> None:
        """Compare a fixed share of the rows, and one of each batch that is wide, with what the codec answers."""
        target = answer.target
        wide = wide_rows(as_logits(values, target.task)).nonzero()[:, 0].tolist()
        picked = sorted({i for i, row in enumerate(rows) if row % SHARE == 0} | set(wide[:1]))
        if not picked:
            answer.errors.append(Errors(0, len(wide), {}))
            return
        columns = {name: column[picked] for name, column in encoded.items()}
        errors = measure(target.codec, values[picked], columns, len(wide))
        answer.errors.append(errors)
        if target.max_error is not None and errors.worst > target.max_error:
            ids = name_some(job.ids([rows[i] for i in picked]))
            raise CodecError(
                f"{target.name}: an error of {errors.worst:.2g} at one of the samples {ids}; max_error is "
                f"{target.max_error:g}; {better_settings(target.codec, values[picked], target.max_error)}"
            )


def _ahead(pool: ThreadPoolExecutor, calls: Iterator[Callable[[], Batch]], depth: int) -> Iterator[Batch]:
    """Yield the results of calls in order, keeping `depth` of them under way."""
    pending: deque[Future[Batch]] = deque()
    for call in calls:
        pending.append(pool.submit(call))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _kind(value: Any) -> str:
    return f"a {value.layout} {value.device} tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _listed(job: Job, bad: dict[int, str]) -> str:
    """Return bad samples grouped by reason."""
    reasons: dict[str, list[Any]] = {}
    for row, reason in sorted(bad.items()):
        reasons.setdefault(reason, []).extend(job.ids([row]))
    return "; ".join(f"{counted(len(ids), 'sample')} ({name_some(ids)}): {reason}" for reason, ids in reasons.items())
