"""One teacher over its fragments: reading, predicting and writing overlap, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from softcache.builder.answers import Answers, RowAnswers, kind_of
from softcache.builder.jobs import Batch, Job
from softcache.builder.samples import Samples
from softcache.builder.sequence_answers import SequenceAnswers, add_sequences, sequences_of
from softcache.builder.targets import BuildTarget
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
from softcache.transfer.augmentation import generator_states

BATCHES_AHEAD = 4
SHARDS_BEHIND = 4
SAMPLED_BATCHES = 16
_GOLDEN = 0.6180339887498949


class Runner:
    """Runs one loaded teacher."""

    def __init__(
        self,
        name: str,
        teacher: Teacher,
        samples: Samples,
        reads: Sequence[str],
        batch_size: int,
        *,
        skip_bad: bool = False,
    ) -> None:
        self._name, self._teacher, self._samples, self._reads = name, teacher, samples, list(reads)
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
            answers: dict[str, RowAnswers | SequenceAnswers] = {}
            try:
                for batch in _ahead(reader, self._batches(jobs, stop), BATCHES_AHEAD):
                    answers = answers or _no_answers(batch.job)
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

    @property
    def teacher(self) -> Teacher:
        """The loaded teacher."""
        return self._teacher

    def sample(self, target: BuildTarget, jobs: Sequence[Job], items: int) -> torch.Tensor:
        """Return a target's values for about so many items [n, ...], evenly over the jobs; bad ones are left out."""
        cuts = list(self._cuts(jobs))
        # Each further one falls into the widest gap between those before.
        order = sorted(range(len(cuts)), key=lambda i: i * _GOLDEN % 1)
        share = -(-items // min(len(cuts), SAMPLED_BATCHES))
        found: list[torch.Tensor] = []
        for job, rows in (cuts[i] for i in order):
            if sum(map(len, found)) >= items:
                break
            batch = self._lenient()._load(job, rows, last=True)
            if not batch.rows:
                continue
            outputs = self._predict(batch)
            for some in self._sampled(outputs[self._output(outputs, target)], target, batch, share):
                faults = target.codec.faults(some)
                found.append(some[[i for i in range(len(some)) if i not in faults]])
        return torch.cat(found) if found else torch.empty(0, *target.codec.given_shape)

    def _sampled(self, output: Any, target: BuildTarget, batch: Batch, share: int) -> Iterator[torch.Tensor]:
        """Yield about `share` of a batch's values, checked as a build would."""
        answers = _no_answers(Job(batch.job.fragment, batch.job.positions, [target]))[target.name]
        if not isinstance(answers, SequenceAnswers):
            values = answers.checked(answers.parted(output, batch)[0], len(batch.rows), batch)
            yield values[:: max(len(values) // share, 1)].clone()
            return
        taken = sequences_of(output, target)
        answers.begin(taken, batch)
        step = max(sum(taken.lengths) // share, 1)
        for places, chunk in taken.chunks:
            yield answers.checked(chunk, len(places), batch)[::step].clone()

    def check_draws(self, job: Job) -> None:
        """Raise TeacherError if the teacher draws from global generators while it answers the first batch of a job.

        It would disturb a transform that draws from them at the same time, in the thread that loads batches.
        """
        _, rows = next(self._cuts([job]))
        batch = self._lenient()._load(job, rows, last=False)
        if not batch.rows:
            return
        before = generator_states()
        for output in self._predict(batch).values():
            if isinstance(output, Sequences):
                deque(output.chunks, maxlen=0)
        if generator_states() != before:
            raise TeacherError(
                f"teacher {self._name} draws random numbers while it answers, from the generators that the transform "
                "draws from: the views would not be those of their seeds. Let the teacher answer without (no dropout), "
                "or give the transform an argument rng (docs/views.md)"
            )

    def answers(self, targets: Sequence[BuildTarget], job: Job) -> Iterator[tuple[Batch, dict[str, torch.Tensor]]]:
        """Yield batch after batch of a fragment, and for targets of one item a row what is answered, checked."""
        taken = {t.name: RowAnswers(t, 0) for t in targets}
        for _, rows in self._cuts([job]):
            batch = self._load(job, rows, last=False)
            if not batch.rows:
                yield batch, {}
                continue
            outputs = self._predict(batch)
            yield (
                batch,
                {
                    name: answer.checked(outputs[self._output(outputs, answer.target)], len(batch.rows), batch)
                    for name, answer in taken.items()
                },
            )

    def predict_rows(self, job: Job, rows: list[int]) -> dict[str, RowAnswers | SequenceAnswers]:
        """Answer some rows of a fragment alone; the other rows of the result are missing, and so are bad ones."""
        lenient, answers = self._lenient(), _no_answers(job)
        lenient._answer(lenient._load(job, rows, last=True), answers)
        return answers

    def _lenient(self) -> Runner:
        lenient = copy(self)
        lenient._skip_bad = True
        return lenient

    def _batches(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Callable[[], Batch]]:
        for job in jobs:
            if stop.is_set():
                return
            for _, rows in self._cuts([job]):
                yield partial(self._load, job, rows, rows[-1] == job.fragment.rows - 1)

    def _cuts(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[int]]]:
        """Yield the rows of each batch."""
        for job in jobs:
            for begin in range(0, job.fragment.rows, self._batch_size):
                yield job, list(range(begin, min(begin + self._batch_size, job.fragment.rows)))

    def _load(self, job: Job, rows: list[int], last: bool) -> Batch:
        try:
            return Batch(job, rows, self._collate(job, rows), {}, last, len(rows))
        except SoftcacheError:
            raise
        except Exception as e:
            bad = self._isolate(job, rows)
            if not bad:
                ids = name_some(job.names(rows))
                raise TeacherError(f"teacher {self._name}: samples {ids} cannot be collated together: {e!r}") from e
        if not self._skip_bad:
            raise TransferSetError(
                f"teacher {self._name}: {job.listed(bad)}; mend them, or set build.on_bad_sample=skip"
            )
        good = [row for row in rows if row not in bad]
        try:
            return Batch(job, good, self._collate(job, good) if good else None, bad, last, len(rows))
        except Exception as e:
            ids = name_some(job.names(good))
            raise TeacherError(f"teacher {self._name}: samples {ids} cannot be collated together: {e!r}") from e

    def _collate(self, job: Job, rows: list[int]) -> Any:
        return self._teacher.collate(self._samples.load(job, rows, self._reads))

    def _isolate(self, job: Job, rows: list[int]) -> dict[int, str]:
        """Return the rows that fail alone, and how."""
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

    def _answer(self, batch: Batch, answers: dict[str, RowAnswers | SequenceAnswers]) -> None:
        """Predict one batch and put it into `answers`."""
        for answer in answers.values():
            answer.bad.update(batch.bad)
        if not batch.rows:
            return
        outputs = self._predict(batch)
        sequences: dict[str, list[SequenceAnswers]] = {}
        for answer in answers.values():
            if isinstance(answer, SequenceAnswers):
                sequences.setdefault(self._output(outputs, answer.target), []).append(answer)
            else:
                answer.add(outputs[self._output(outputs, answer.target)], batch, skip_bad=self._skip_bad)
        for name, together in sequences.items():
            add_sequences(together, outputs[name], batch, skip_bad=self._skip_bad)

    def _predict(self, batch: Batch) -> Mapping[str, Any]:
        """Return the teacher's outputs. Whatever it raises, also later while sequences are taken, is a TeacherError."""
        try:
            outputs = self._teacher.predict(batch.inputs)
        except Exception as e:
            raise self._raised(e, batch) from e
        if not isinstance(outputs, Mapping):
            raise TeacherError(f"teacher {self._name}: predict returned {kind_of(outputs)}, not answers by output name")
        return {
            name: replace(output, chunks=self._chunks(output, batch)) if isinstance(output, Sequences) else output
            for name, output in outputs.items()
        }

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

    def _raised(self, error: Exception, batch: Batch) -> TeacherError:
        what = str(error) if isinstance(error, SoftcacheError) else f"{type(error).__name__}: {error}"
        return TeacherError(f"teacher {self._name} raised on samples {batch.named}: {what}")

    def _output(self, outputs: Any, target: BuildTarget) -> str:
        """Return what the teacher calls a target's answer."""
        name = target.output if target.output in outputs or target.names_output else UNNAMED
        if name not in outputs:
            there = ", ".join(map(str, outputs))
            raise TeacherError(f"{target.name}: the teacher has no output {target.output!r}; it has {there}")
        return name


def _ahead(pool: ThreadPoolExecutor, calls: Iterator[Callable[[], Batch]], depth: int) -> Iterator[Batch]:
    """Yield the results of calls in order, keeping `depth` of them under way."""
    pending: deque[Future[Batch]] = deque()
    for call in calls:
        pending.append(pool.submit(call))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _no_answers(job: Job) -> dict[str, RowAnswers | SequenceAnswers]:
    """Return answers of a job's targets that are all missing yet."""
    rows = job.fragment.rows
    return {t.name: SequenceAnswers(t, rows) if t.task.is_list else RowAnswers(t, rows) for t in job.targets}
