"""What other codecs would cost and lose, tried on a few of the teacher's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softcache.builder.estimate import item_bytes
from softcache.builder.jobs import Job
from softcache.builder.pipeline import Runner
from softcache.builder.tables import TargetPilot
from softcache.builder.targets import BuildTarget
from softcache.codecs import Codec, DenseCodec, HiddenCodec, QuantizedCodec, make_codec
from softcache.codecs.base import GivenTable, map_items
from softcache.codecs.fidelity import measure
from softcache.errors import CodecError, TeacherError
from softcache.tasks import TaskSpec

TEMPERATURES = ("1", "2", "4", "8")
FEW_CLASSES = 1_000
ITEMS, ITEMS_OF_MANY_CLASSES, MEASURED, MEASURED_PLACES = 64, 512, 48, 4096
_TOPK = ((4, 0), (8, 0), (32, 0), (32, 32), (64, 0), (64, 64))


@dataclass(frozen=True)
class CodecTrial:
    """One codec on a pilot.

    `item_bytes` are the bytes of a row, of sequences of a position, and `bytes` of the whole transfer set; `tv` and
    `kl` the mean errors (docs/format.md, section 6) by temperature, None where infinite.
    """

    codec: dict[str, Any]
    chosen: bool
    item_bytes: int
    bytes: int
    tv: dict[str, float | None]
    kl: dict[str, float | None]


def try_codecs(runner: Runner, target: BuildTarget, jobs: Sequence[Job], items: int) -> list[CodecTrial]:
    """Try codecs on a target's first answers, the recipe's own first; `items` are in the whole transfer set."""
    if not target.task.has_temperature or not target.codec.can_be_measured:
        return []
    wanted = ITEMS if target.task.shape[0] <= FEW_CLASSES else ITEMS_OF_MANY_CLASSES
    samples: dict[str, torch.Tensor] = {}
    found = []
    for codec, output in _candidates(runner, target):
        if output not in samples:
            samples[output] = runner.sample(replace(target, codec=codec, output=output), jobs, wanted)
        if len(samples[output]) > 1:
            trial = _try(runner, codec, samples[output], items, chosen=codec == target.codec)
            found += [] if trial is None else [trial]
    return found


def with_trial_table(runner: Runner, target: BuildTarget, jobs: Sequence[Job]) -> BuildTarget:
    """Return a target whose codec has a table, made from a few answers: good enough to be timed."""
    if target.codec.table_name is None:
        return target
    pilot = _SamplePilot(runner, TargetPilot(runner, target, jobs).values(MEASURED))
    return replace(target, codec=target.codec.with_table(GivenTable(target.codec.make_table(pilot))))


@dataclass(frozen=True, eq=False)
class _SamplePilot:
    """A pilot whose values are there already."""

    runner: Runner
    sampled: torch.Tensor

    def values(self, items: int) -> torch.Tensor:
        return self.sampled

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self.runner.teacher.output_layer()


def _try(runner: Runner, codec: Codec, values: torch.Tensor, items: int, *, chosen: bool) -> CodecTrial | None:
    """Measure a codec on the last of some values; a table that it needs is made from the others."""
    held_out = max(min(MEASURED, len(values) // 2), 1)
    try:
        if codec.table_name is not None:
            codec = codec.with_table(GivenTable(codec.make_table(_SamplePilot(runner, values[:-held_out]))))
        measured = values[-held_out:]
        decoder, columns = codec.per_item(codec.encode(measured))
        items_of = map_items(measured) if codec.task.is_map else measured
        picked = slice(None, None, max(len(items_of) // MEASURED_PLACES, 1))
        errors = measure(decoder, items_of[picked], {name: column[picked] for name, column in columns.items()})
    except CodecError:
        return None
    each = item_bytes(codec)
    at = errors.to_json()["at"]
    tv, kl = ({t: at[t][name][1] for t in TEMPERATURES} for name in ("tv", "kl"))
    return CodecTrial(codec.to_json(), chosen, each, each * items, tv, kl)


def _candidates(runner: Runner, target: BuildTarget) -> Iterator[tuple[Codec, str]]:
    """Yield codecs that could store a target, its own first, and the teacher's output that each takes."""
    yield target.codec, target.output
    is_language = target.task.kind == "causal_lm"
    if is_language or target.codec.sees_logits:
        output = "logits" if is_language else target.output
        yield from ((codec, output) for codec in _of_logits(target.task) if codec != target.codec)
    if is_language or not target.codec.sees_logits:
        output = "hidden" if is_language else target.output
        yield from ((codec, output) for codec in _of_hidden(runner, target.task) if codec != target.codec)


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


def _of_hidden(runner: Runner, task: TaskSpec) -> Iterator[Codec]:
    try:
        width = runner.teacher.output_layer()["weight"].shape[1]
    except TeacherError:
        return
    for dtype in ("float16", "int8"):
        yield HiddenCodec(task, width=width, dtype=dtype)
