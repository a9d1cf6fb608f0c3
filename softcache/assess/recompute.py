"""`softcache verify --recompute`: whether the teachers give the stored answers today."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.canary import TOLERANCE
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.opening import make_samples, opened_predictor
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.sampling import answer_rows
from softcache.builder.answer.stored_answers import StoredShard, compared
from softcache.builder.prepare.opened_recipe import opened_recipe
from softcache.builder.prepare.prepared import PreparedBuild, prepare
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.codecs.topk import TopkCodec
from softcache.errors import AlignmentError, IncompleteCache, RecipeError
from softcache.read.codec_table import with_table
from softcache.store.buffers import ListColumn
from softcache.store.shards import Shard

Columns = Mapping[str, torch.Tensor]
TAIL_TEMPERATURES = (1.0, 20.0)
TAIL_TOLERANCE = 4e-3  # of a probability: rounding of the sketch and of the gaps together stays well below


@dataclass(frozen=True, kw_only=True)
class RecomputedTarget:
    """How far a teacher's answers of today are from the stored ones, in the row where that is worst explained.

    Attributes:
        name: the target.
        rows: how many rows were answered again.
        sample: the row: its sample id, or (sample id, view).
        largest: the largest difference of a stored number from today's, in the unit of the answer or the part; None if
            one of the two has no answer.
        control: the largest difference there between two answers of today, in other batches; None if only one of them
            has an answer.
        allowed: how large a difference rounding explains there.
        ok: whether every row differs by no more than rounding explains, or twice as much as two answers of today.
    """

    name: str
    rows: int
    sample: Any
    largest: float | None
    control: float | None
    allowed: float
    ok: bool


@dataclass(frozen=True)
class Recomputation:
    """The cache, and what was found for each target of the recipe that it has."""

    path: str
    targets: list[RecomputedTarget]

    @property
    def ok(self) -> bool:
        """Whether all answers are the stored ones."""
        return all(target.ok for target in self.targets)

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return {"path": self.path, "ok": self.ok, "targets": [asdict(target) for target in self.targets]}


def recompute(
    recipe: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    rows: int,
    seed: int | None = None,
) -> Recomputation:
    """Let a recipe's teachers answer random rows of a cache again, and compare the answers with the stored ones.

    So many rows of each target are drawn from what the newest commit holds of the recipe's samples, anew each time
    unless `seed` is given. Of `topk`, the stored classes are compared and the mass of the others at T = 1 and 20, not
    how it is spread. The cache is left as it is.

    Raises IncompatibleTarget if a teacher is not the declared one, naming every difference; AlignmentError if no sample
    of a target is as its teacher saw it; IncompleteCache before the first commit; and what a build raises before its
    first commit.

    Examples:
        >>> found = softcache.recompute("recipes/digits/recipe.yaml", "runs/digits", rows=8)
        >>> found.ok, found.targets[0].name, found.targets[0].rows
        (True, 'digit@a', 8)
    """
    if rows < 1:
        raise RecipeError(f"rows is {rows}; expected at least 1")
    with opened_recipe(recipe, overrides) as loaded:
        prepared = prepare(loaded, cache, write=False)
        if prepared.inventory.state is None:
            raise IncompleteCache(f"{prepared.files.url}: nothing is committed yet, so there is nothing to compare")
        samples, found = make_samples(prepared), list[RecomputedTarget]()
        committed = [target for target in prepared.targets if target.name in prepared.inventory.manifests]
        if not committed:
            raise AlignmentError(f"{prepared.files.url} has none of the recipe's targets")
        chance = np.random.default_rng(seed)
        for teacher in dict.fromkeys(target.teacher for target in committed):
            with opened_predictor(prepared, teacher, samples) as predictor:
                for target in (target for target in committed if target.teacher == teacher):
                    found.append(_recomputed(prepared, predictor, target, rows, chance))
        return Recomputation(prepared.files.url, found)


def _drawn(
    prepared: PreparedBuild, target: BuildTarget, rows: int, chance: np.random.Generator
) -> Iterator[tuple[Job, Shard, Array]]:
    """Yield fragments of a target, the shard of each, and the rows drawn from it, ascending."""
    stored = [(unit.fragment, _shard(prepared, unit)) for unit in prepared.units if unit.name == target.name]
    known = [(fragment, shard) for fragment, shard in stored if shard is not None]
    ends = np.cumsum([fragment.rows for fragment, _ in known])
    if not known:
        raise AlignmentError(f"{prepared.files.url}: no sample of {target.name} is as its teacher saw it")
    drawn = np.sort(chance.choice(ends[-1], min(rows, int(ends[-1])), replace=False))
    owner = np.searchsorted(ends, drawn, side="right")
    for i in np.unique(owner).tolist():
        fragment, shard = known[i]
        job = Job(fragment, prepared.work.positions[fragment.number], [target])
        yield job, shard, drawn[owner == i] - (ends[i] - fragment.rows)


def _shard(prepared: PreparedBuild, unit: Unit) -> Shard | None:
    """Return the committed shard of a unit, None if it has none, or has one of other samples."""
    live = prepared.inventory.shards(unit.name).get(unit.fragment.number)
    return live.shard if live is not None and live.shard.unit_key == unit.key else None


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A part of a row: its largest difference, the same between two answers of today, and what rounding explains."""

    difference: float
    control: float
    allowed: float

    @property
    def ratio(self) -> float:
        """How many times as large the difference is as what explains it."""
        return self.difference / max(self.allowed, 2 * self.control if math.isfinite(self.control) else 0.0)


def _recomputed(
    prepared: PreparedBuild, predictor: Predictor, target: BuildTarget, rows: int, chance: np.random.Generator
) -> RecomputedTarget:
    """Answer rows again for one target, twice, and judge each."""
    committed = prepared.inventory.committed(target.name)
    assert committed is not None, "only targets that are committed are recomputed"
    target = replace(target, codec=with_table(target.codec, prepared.files, committed.tables))
    answered, worst, sample = 0, _Judged(difference=-1.0, control=0.0, allowed=1.0), None
    for job, shard, own in _drawn(prepared, target, rows, chance):
        stored, answered = StoredShard(prepared.files, shard, target), answered + len(own)
        now = _answers(predictor, job, own, together=True)
        again = _answers(predictor, job, own, together=False)
        for row in own.tolist():
            old = stored.items(np.array([row]))[0] if stored.valid[row] else None
            for judged in _judge(target, old, now[row], again[row], stored.eps):
                if judged.ratio > worst.ratio:
                    worst, sample = judged, job.names([row])[0]
    return RecomputedTarget(
        name=target.name,
        rows=answered,
        sample=sample,
        largest=worst.difference if math.isfinite(worst.difference) else None,
        control=worst.control if math.isfinite(worst.control) else None,
        allowed=worst.allowed,
        ok=worst.ratio <= 1,
    )


def _judge(
    target: BuildTarget, old: Columns | None, new: Columns | None, again: Columns | None, eps: float
) -> Iterator[_Judged]:
    """Yield the judgement of each part of a row: its values, the mass of its tail, and what is stored beside them."""
    if old is None or new is None or not _alike(old, new):
        same = old is None and new is None
        yield _Judged(difference=0.0 if same else math.inf, control=0.0, allowed=1.0)
        return
    comparable = again is not None and _alike(again, new)
    control = dict(_differences(target, new, again, eps)) if again is not None and comparable else {}
    for what, (difference, allowed) in _differences(target, old, new, eps):
        yield _Judged(difference=difference, control=control.get(what, (math.inf, 0.0))[0], allowed=allowed)


def _alike(one: Columns, other: Columns) -> bool:
    """Whether two answers have as many items."""
    return all(len(one[name]) == len(other[name]) for name in one.keys() & other.keys())


def _differences(
    target: BuildTarget, old: Columns, new: Columns, eps: float
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield what is compared of two answers, the largest difference, and how large a difference rounding explains."""
    for what, a, b, step in compared(target, old, new, eps):
        finite = a.isfinite() & b.isfinite()
        scale = max(1.0, float(a[finite].abs().max())) if bool(finite.any()) else 1.0
        apart = float((a - b)[finite].abs().max()) if bool(finite.any()) else 0.0
        same = bool((a[~finite] == b[~finite]).all())
        yield what, (apart if same else math.inf, scale * (TOLERANCE + step))
    codec = target.codec
    if isinstance(codec, TopkCodec) and codec.has_tail and len(old[codec.value_columns[0].name]):
        for temperature in TAIL_TEMPERATURES:
            masses = [_tail_mass(codec, columns, temperature) for columns in (old, new)]
            yield f"tail at T = {temperature:g}", (float((masses[0] - masses[1]).abs().max()), TAIL_TOLERANCE)


def _tail_mass(codec: TopkCodec, columns: Columns, temperature: float) -> torch.Tensor:
    """Return the mass of the classes that are not stored, float64 [items]."""
    own = {column.name: columns[column.name] for column in codec.value_columns if column.name in columns}
    decoder, items = codec.decoder.per_item(own)
    sparse = decoder.sparse_log_probs(items, temperature)
    assert sparse is not None, "topk answers sparsely"
    return sparse.log_tail.double().exp()


def _answers(predictor: Predictor, job: Job, rows: Array, *, together: bool) -> dict[int, Columns | None]:
    """Answer rows in batches of the recipe's size, or one at a time. Returns each row's columns as they are stored.

    A row without an answer has None.
    """
    size = predictor.batch_size if together else 1
    found: dict[int, Columns | None] = {}
    for part in (rows[i : i + size].tolist() for i in range(0, len(rows), size)):
        answers = answer_rows(predictor, job, part)[job.targets[0].name]
        encoded, lists = answers.encoded(), answers.columns()
        for row in part:
            columns = {name: _part(encoded[name], lists[name], row) for name in encoded}
            found[row] = None if row in answers.bad else columns
    return found


def _part(column: torch.Tensor, stored: Array | ListColumn, row: int) -> torch.Tensor:
    """Return the items of a row in a column of a fragment."""
    if isinstance(stored, ListColumn):
        return column[int(stored.offsets[row]) : int(stored.offsets[row + 1])]
    return column[[row]].clone()
