"""`softcache verify --recompute`: whether the teachers give the stored answers today."""

from __future__ import annotations

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
from softcache.errors import AlignmentError, IncompleteCache, RecipeError
from softcache.read.codec_table import with_table
from softcache.store.buffers import ListColumn
from softcache.store.shards import Shard

Columns = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class RecomputedTarget:
    """How far a teacher's answers of today are from the stored ones.

    Attributes:
        name: the target.
        rows: how many rows were answered again.
        largest: the largest difference of a stored number from today's, in the answer's own unit; infinite where one of
            the two has no answer.
        sample: the row where it is: its sample id, or (sample id, view).
        control: the largest difference between two answers of today, to the same rows in other batches.
        allowed: how large a difference rounding explains there.
    """

    name: str
    rows: int
    largest: float
    sample: Any
    control: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the difference is explained by rounding, or by how much the teacher differs from itself."""
        return self.largest <= max(self.allowed, 2 * self.control)


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
        return {"path": self.path, "ok": self.ok, "targets": [asdict(t) | {"ok": t.ok} for t in self.targets]}


def recompute(
    recipe: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    rows: int,
    seed: int | None = None,
) -> Recomputation:
    """Let a recipe's teachers answer random rows of a cache again, and compare the answers with the stored ones.

    `rows` are drawn from what the newest commit holds of the recipe's samples, anew each time unless `seed` is given.
    The cache is left as it is.

    Raises IncompatibleTarget if a teacher is not the declared one, naming every difference; AlignmentError if no sample
    is as the teachers saw it; IncompleteCache before the first commit; and what a build raises before its first commit.

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
        jobs = list(_drawn(prepared, rows, np.random.default_rng(seed)))
        samples, found = make_samples(prepared), list[RecomputedTarget]()
        for teacher in dict.fromkeys(target.teacher for target in prepared.targets):
            own = [target for target in prepared.targets if target.teacher == teacher]
            with opened_predictor(prepared, teacher, samples) as predictor:
                found += [one for target in own if (one := _recomputed(prepared, predictor, target, jobs)) is not None]
        return Recomputation(prepared.files.url, found)


def _drawn(prepared: PreparedBuild, rows: int, chance: np.random.Generator) -> Iterator[tuple[Job, Array]]:
    """Yield fragments, and the rows drawn from each, ascending."""
    committed = {unit.fragment.number for unit in prepared.units if unit.target is not None and _shard(prepared, unit)}
    fragments = [prepared.work.plan.fragments[number] for number in sorted(committed)]
    ends = np.cumsum([fragment.rows for fragment in fragments])
    if not len(ends):
        raise AlignmentError(f"{prepared.files.url}: no sample of the recipe is as the teachers saw it")
    drawn = np.sort(chance.choice(ends[-1], min(rows, int(ends[-1])), replace=False))
    owner = np.searchsorted(ends, drawn, side="right")
    for i in np.unique(owner):
        job = Job(fragments[i], prepared.work.positions[fragments[i].number], [])
        yield job, drawn[owner == i] - (ends[i] - fragments[i].rows)


def _shard(prepared: PreparedBuild, unit: Unit) -> Shard | None:
    """Return the committed shard of a unit, None if it has none, or has one of other samples."""
    live = prepared.inventory.shards(unit.name).get(unit.fragment.number)
    return live.shard if live is not None and live.shard.unit_key == unit.key else None


def _recomputed(
    prepared: PreparedBuild, predictor: Predictor, target: BuildTarget, jobs: Sequence[tuple[Job, Array]]
) -> RecomputedTarget | None:
    """Answer rows again for one target, twice. Returns None if the cache has none of them."""
    committed = prepared.inventory.committed(target.name)
    if committed is None:
        return None
    target = replace(target, codec=with_table(target.codec, prepared.files, committed.tables))
    units = {unit.fragment.number: unit for unit in prepared.units if unit.name == target.name}
    answered, worst, control, allowed, sample = 0, -1.0, 0.0, 0.0, None
    for whole, rows in jobs:
        shard = _shard(prepared, units[whole.fragment.number])
        if shard is None:
            continue
        job, answered = replace(whole, targets=[target]), answered + len(rows)
        stored = StoredShard(prepared.files, shard, target)
        now = _answers(predictor, job, rows, together=True)
        again = _answers(predictor, job, rows, together=False)
        for row in rows.tolist():
            old = stored.items(np.array([row]))[0] if stored.valid[row] else None
            one, other = now[row], again[row]
            difference, scale = _difference(target, old, one)
            control = max(control, _difference(target, one, other)[0])
            if difference > worst:
                worst, sample = difference, job.names([row])[0]
                allowed = scale * (TOLERANCE + stored.eps)
    if not answered:
        return None
    return RecomputedTarget(
        name=target.name, rows=answered, largest=worst, sample=sample, control=control, allowed=allowed
    )


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


def _difference(target: BuildTarget, old: Columns | None, new: Columns | None) -> tuple[float, float]:
    """Return the largest difference of two answers to a row, and the scale of their numbers, at least 1."""
    if old is None or new is None:
        return (0.0 if old is new else np.inf), 1.0
    worst, scale = 0.0, 1.0
    if any(len(old[name]) != len(new[name]) for name in old):
        return np.inf, 1.0
    for _, a, b, _ in compared(target, old, new, 0.0):
        finite = a.isfinite() & b.isfinite()
        same = bool((a[~finite] == b[~finite]).all())
        worst = max(worst, float((a - b)[finite].abs().max()) if bool(finite.any()) else 0.0, 0.0 if same else np.inf)
        scale = max(scale, float(a[finite].abs().max()) if bool(finite.any()) else 1.0)
    return worst, scale
