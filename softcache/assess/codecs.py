"""Trials of codecs: the size and the error of each, measured on a few of the teacher's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softcache.builder.answer.jobs import Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.sampling import sample_values
from softcache.builder.answer.target_tables import TeacherPilot
from softcache.builder.prepare.space import item_bytes
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs import Codec, DenseCodec, HiddenCodec, QuantizedCodec, make_codec
from softcache.codecs.fidelity import measure
from softcache.codecs.logits import map_items
from softcache.codecs.tables import GivenTable
from softcache.errors import CodecError, TeacherError
from softcache.tasks import TaskSpec

TEMPERATURES = ("1", "2", "4", "8")
FEW_CLASSES = 1_000
ITEMS, ITEMS_OF_MANY_CLASSES, MEASURED, MEASURED_PLACES = 64, 512, 48, 4096
_TOPK = ((4, 0), (8, 0), (32, 0), (32, 32), (64, 0), (64, 64))


@dataclass(frozen=True, kw_only=True)
class CodecTrial:
    """One codec, tried on a few answers.

    Attributes:
        codec: the codec, as in a declaration.
        chosen: whether it is the recipe's own.
        item_bytes: the bytes that one row takes; for sequences, one position.
        bytes: the bytes that the whole transfer set takes.
        tv, kl: the mean total variation and the mean KL divergence in nats (docs/format.md, section 6), by temperature;
            None where infinite.
    """

    codec: dict[str, Any]
    chosen: bool
    item_bytes: int
    bytes: int
    tv: dict[str, float | None]
    kl: dict[str, float | None]


def try_codecs(predictor: Predictor, target: BuildTarget, jobs: Sequence[Job], items: int) -> list[CodecTrial]:
    """Try codecs on a few answers to a target, the recipe's own first.

    `items` is how many rows or positions the whole transfer set has.
    """
    if not target.task.has_temperature or not target.codec.traits.can_be_measured:
        return []
    wanted = ITEMS if target.task.shape[0] <= FEW_CLASSES else ITEMS_OF_MANY_CLASSES
    samples: dict[str, torch.Tensor] = {}
    found = []
    for codec, output in _candidates(predictor, target):
        if output not in samples:
            samples[output] = sample_values(predictor, replace(target, codec=codec, output=output), jobs, wanted)
        if len(samples[output]) > 1:
            trial = _try(predictor, codec, samples[output], items, chosen=codec == target.codec)
            found += [] if trial is None else [trial]
    return found


def with_trial_table(predictor: Predictor, target: BuildTarget, jobs: Sequence[Job]) -> BuildTarget:
    """Return the target with a codec table made from a few answers, which is good enough for timing."""
    spec = target.codec.table_spec
    if spec is None:
        return target
    pilot = _GivenPilot(predictor, TeacherPilot(predictor, target, jobs).values(MEASURED))
    return replace(target, codec=target.codec.with_table(GivenTable(spec.make(pilot))))


@dataclass(frozen=True, eq=False)
class _GivenPilot:
    """A pilot whose values have already been sampled."""

    predictor: Predictor
    sampled: torch.Tensor

    def values(self, items: int) -> torch.Tensor:
        return self.sampled

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self.predictor.teacher.output_layer()


def _try(predictor: Predictor, codec: Codec, values: torch.Tensor, items: int, *, chosen: bool) -> CodecTrial | None:
    """Measure a codec on the last of some values. If it needs a table, that is made from the other values."""
    held_out = max(min(MEASURED, len(values) // 2), 1)
    try:
        if (spec := codec.table_spec) is not None:
            codec = codec.with_table(GivenTable(spec.make(_GivenPilot(predictor, values[:-held_out]))))
        measured = values[-held_out:]
        _, columns = codec.decoder.per_item(codec.encode(measured))
        item_values = map_items(measured) if codec.task.is_map else measured
        picked = slice(None, None, max(len(item_values) // MEASURED_PLACES, 1))
        errors = measure(codec.item, item_values[picked], {name: column[picked] for name, column in columns.items()})
    except CodecError:
        return None
    each = item_bytes(codec)
    at = errors.to_json()["at"]
    tv, kl = ({t: at[t][name][1] for t in TEMPERATURES} for name in ("tv", "kl"))
    return CodecTrial(codec=codec.to_json(), chosen=chosen, item_bytes=each, bytes=each * items, tv=tv, kl=kl)


def _candidates(predictor: Predictor, target: BuildTarget) -> Iterator[tuple[Codec, str]]:
    """Yield the codecs that could store a target, its own first, each with the teacher's output that it takes."""
    yield target.codec, target.output
    sees_logits, is_language = target.codec.traits.sees_logits, target.task.traits.has_tokens
    if is_language or sees_logits:
        output = "logits" if is_language else target.output
        yield from ((codec, output) for codec in _of_logits(target.task) if codec != target.codec)
    if is_language or not sees_logits:
        output = "hidden" if is_language else target.output
        yield from ((codec, output) for codec in _of_hidden(predictor, target.task) if codec != target.codec)


def _of_logits(task: TaskSpec) -> Iterator[Codec]:
    yield DenseCodec(task, "float16")
    if task.value_kind != "probs":
        yield QuantizedCodec(task)
    if task.shape[0] <= FEW_CLASSES or task.activation != "softmax":
        return
    for k, basis in _TOPK:
        if not (basis and task.allow_masked):
            yield make_codec("topk", task, {"k": k, "basis": basis, "companions": False})
    yield make_codec("sampled", task, {})


def _of_hidden(predictor: Predictor, task: TaskSpec) -> Iterator[Codec]:
    try:
        width = predictor.teacher.output_layer()["weight"].shape[1]
    except TeacherError:
        return
    for dtype in ("float16", "int8"):
        yield HiddenCodec(task, width=width, dtype=dtype)
