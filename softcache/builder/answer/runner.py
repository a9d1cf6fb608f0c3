"""One teacher over its fragments: reading, predicting and writing overlap, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from softcache.builder.answer.answers import Answers
from softcache.builder.answer.jobs import Batch, Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.row_answers import RowAnswers
from softcache.builder.answer.sequence_answers import SequenceAnswers

Written = TypeVar("Written")
BATCHES_AHEAD = 4
SHARDS_BEHIND = 4


def run_jobs(
    predictor: Predictor,
    jobs: Sequence[Job],
    write: Callable[[Job, Answers], Written],
    stop: threading.Event,
    progress: Callable[[int], object],
) -> list[Written]:
    """Answer every job, hand each target's answers to `write` in another thread, and return what `write` returned.

    When `stop` is set, fragments that have begun are finished and no other begins. `progress` is called with the number
    of samples answered since.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(ThreadPoolExecutor(1, "softcache-read"))
        writer = stack.enter_context(ThreadPoolExecutor(1, "softcache-write"))
        writing: deque[Future[Written]] = deque()
        written: list[Written] = []
        answers: dict[str, Answers] = {}
        try:
            for batch, is_last in _ahead(reader, _loads(predictor, jobs, stop), BATCHES_AHEAD):
                answers = answers or no_answers(batch.job)
                add_answers(predictor, batch, answers)
                progress(batch.size)
                if is_last:
                    for done in answers.values():
                        while len(writing) >= SHARDS_BEHIND:
                            written.append(writing.popleft().result())
                        writing.append(writer.submit(write, batch.job, done))
                    answers = {}
            return written + [future.result() for future in writing]
        except BaseException:
            # What is answered is still written on leaving; what has not been read yet is not begun.
            reader.shutdown(wait=False, cancel_futures=True)
            raise


def no_answers(job: Job) -> dict[str, Answers]:
    """Return the answers of a job's targets, all still missing."""
    rows = job.fragment.rows
    return {t.name: SequenceAnswers(t, rows) if t.task.is_list else RowAnswers(t, rows) for t in job.targets}


def add_answers(predictor: Predictor, batch: Batch, answers: dict[str, Answers]) -> None:
    """Predict one batch and put the result into `answers`, by target name."""
    for own in answers.values():
        own.bad.update(batch.bad)
    if not batch.rows:
        return
    outputs = predictor.predict(batch)
    groups: dict[tuple[type[Answers], str], list[Answers]] = {}
    for own in answers.values():
        groups.setdefault((type(own), predictor.output_name(outputs, own.target)), []).append(own)
    for (kind, name), together in groups.items():
        kind.add_output(together, outputs[name], batch, skip_bad=predictor.skip_bad)


def _loads(
    predictor: Predictor, jobs: Sequence[Job], stop: threading.Event
) -> Iterator[Callable[[], tuple[Batch, bool]]]:
    """Yield a call for each batch, which loads it and says whether it is the last of its job."""
    for job in jobs:
        if stop.is_set():
            return
        for rows in predictor.cuts(job):
            yield partial(_load, predictor, job, rows)


def _load(predictor: Predictor, job: Job, rows: list[int]) -> tuple[Batch, bool]:
    return predictor.load(job, rows), rows[-1] == job.fragment.rows - 1


def _ahead(
    pool: ThreadPoolExecutor, calls: Iterator[Callable[[], tuple[Batch, bool]]], depth: int
) -> Iterator[tuple[Batch, bool]]:
    """Yield the results of calls in order, keeping `depth` of them under way."""
    pending: deque[Future[tuple[Batch, bool]]] = deque()
    for call in calls:
        pending.append(pool.submit(call))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
