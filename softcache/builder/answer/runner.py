"""One teacher over its fragments: reading, predicting and writing overlap, with bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from softcache.builder.answer.ahead import Ahead
from softcache.builder.answer.answers import Answers
from softcache.builder.answer.jobs import Batch, Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.row_answers import RowAnswers
from softcache.builder.answer.sequence_answers import SequenceAnswers

Written = TypeVar("Written")
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
    # What is answered is still written on leaving; what has not been read yet is not begun.
    with ThreadPoolExecutor(1, "softcache-write") as writer, Ahead(_batches(predictor, jobs, stop)) as batches:
        writing: deque[Future[Written]] = deque()
        written: list[Written] = []
        answers: dict[str, Answers] = {}
        for batch, is_last in batches:
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


def _batches(predictor: Predictor, jobs: Sequence[Job], stop: threading.Event) -> Iterator[tuple[Batch, bool]]:
    """Load each batch; yield it, and whether it is the last of its job."""
    for job in jobs:
        if stop.is_set():
            return
        for rows in predictor.cuts(job):
            yield predictor.load(job, rows), rows[-1] == job.fragment.rows - 1
