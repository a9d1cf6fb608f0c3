"""A loaded teacher asked for a few answers: to make tables, to try codecs, to check canaries."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from softcache.builder.answer.answers import Answers
from softcache.builder.answer.checks import AnswerChecks
from softcache.builder.answer.jobs import Batch, Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.runner import add_answers, no_answers
from softcache.builder.prepare.targets import BuildTarget
from softcache.errors import TeacherError
from softcache.teachers import Sequences
from softcache.transfer.augmentation import generator_states

SAMPLED_BATCHES = 16
_GOLDEN = 0.6180339887498949


def sample_values(predictor: Predictor, target: BuildTarget, jobs: Sequence[Job], items: int) -> torch.Tensor:
    """Return a target's values for about `items` items [n, ...], spread evenly over the jobs; bad ones are left out."""
    cuts = [(job, rows) for job in jobs for rows in predictor.cuts(job)]
    # In this order each further batch lies in the widest gap between those before it.
    order = sorted(range(len(cuts)), key=lambda i: i * _GOLDEN % 1)
    share = -(-items // min(len(cuts), SAMPLED_BATCHES))
    lenient = predictor.lenient()
    found: list[torch.Tensor] = []
    for job, rows in (cuts[i] for i in order):
        if sum(map(len, found)) >= items:
            break
        batch = lenient.load(job, rows)
        if not batch.rows:
            continue
        outputs = lenient.predict(batch)
        answers = no_answers(Job(job.fragment, job.positions, [target]))[target.name]
        for some in answers.sampled(outputs[lenient.output_name(outputs, target)], batch, share):
            faults = target.codec.faults(some)
            found.append(some[[i for i in range(len(some)) if i not in faults]])
    return torch.cat(found) if found else torch.empty(0, *target.codec.given_shape)


def answer_rows(predictor: Predictor, job: Job, rows: list[int]) -> dict[str, Answers]:
    """Answer only some rows of a fragment. In the result all other rows, and bad ones, are missing."""
    lenient, answers = predictor.lenient(), no_answers(job)
    add_answers(lenient, lenient.load(job, rows), answers)
    return answers


def checked_batches(
    predictor: Predictor, targets: Sequence[BuildTarget], job: Job
) -> Iterator[tuple[Batch, dict[str, torch.Tensor]]]:
    """Yield each batch of a fragment with the checked values of targets, by name. The targets have one item a row."""
    checks = {t.name: AnswerChecks(t) for t in targets}
    for rows in predictor.cuts(job):
        batch = predictor.load(job, rows)
        outputs = predictor.predict(batch) if batch.rows else {}
        found = {
            name: own.values(outputs[predictor.output_name(outputs, own.target)], len(batch.rows), batch)
            for name, own in (checks.items() if batch.rows else ())
        }
        yield batch, found


def check_draws(predictor: Predictor, job: Job) -> None:
    """Raise TeacherError if the teacher draws from global generators while it answers the first batch of a job.

    That would disturb a transform that draws from them at the same time, in the thread that loads batches.
    """
    lenient = predictor.lenient()
    batch = lenient.load(job, next(lenient.cuts(job)))
    if not batch.rows:
        return
    before = generator_states()
    for output in lenient.predict(batch).values():
        if isinstance(output, Sequences):
            deque(output.chunks, maxlen=0)
    if generator_states() != before:
        raise TeacherError(
            f"teacher {predictor.name} draws random numbers while it answers, from the generators that the transform "
            "draws from: the views would not be those of their seeds. Let the teacher answer without drawing (no "
            "dropout), or give the transform an argument rng (docs/views.md)"
        )
