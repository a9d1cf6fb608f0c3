"""Specialists combined with a generalist, computed when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from softcache.errors import TaskError
from softcache.soft import tables
from softcache.soft.keys import RowKeys
from softcache.soft.members import check_readable, joined_columns, listed
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable
from softcache.soft.sequences import SoftSequences
from softcache.soft.specialists_decoder import ANSWERED, SpecialistsDecoder
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec


class Specialists:
    """A generalist and its specialists, read as one target. Made by `softcache.specialists`."""

    def __init__(self, generalist: Readable, specialists: Iterable[Readable], n: int) -> None:
        _check_generalist(generalist)
        members = listed(specialists)
        if not members:
            raise TaskError("there are no specialists; give at least one, or use the generalist alone")
        for specialist in members:
            _check_specialist(specialist, generalist)
        classes = generalist.task.shape[0]
        if type(n) is not int or not 1 <= n <= classes:
            raise TaskError(f"n is {n!r}; expected how many of the {classes:,} classes choose the specialists, from 1")
        self._generalist, self._specialists, self._n = generalist, members, n

    @property
    def name(self) -> str:
        """The names of all members: `specialists(generalist, specialist, ..., n=1)`."""
        return f"specialists({', '.join(m.name for m in self._members)}, n={self._n})"

    @property
    def task(self) -> TaskSpec:
        """The generalist's task."""
        return self._generalist.task

    @property
    def most_views(self) -> int:
        """How many views of a sample the members' caches have at most."""
        return max(m.most_views for m in self._members)

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> SoftTargets:
        """Return soft targets joined by id.

        A row has an answer where the generalist has one. Each cache must have all ids, but the specialists need not
        cover them: `mask_uncovered` is about the generalist. Raises as a target's `lookup`.
        """
        general = self._generalist.lookup(ids, views, hashes=hashes, input_ids=input_ids, mask_uncovered=mask_uncovered)
        return self._combine(
            general, [m.lookup(ids, views, hashes=hashes, mask_uncovered=True) for m in self._specialists]
        )

    def lookup_spans(
        self, ids: Any, starts: Any, lengths: Any, views: Any = None, *, input_ids: Any = None
    ) -> SoftSequences:
        """Raise TaskError: rows are not sequences."""
        raise TaskError(f"{self.name}: its rows are not sequences")

    def read(self, rows: Any) -> SoftTargets:
        """Return soft targets by the generalist's row numbers, with the specialists' joined by id.

        Raises as `lookup`.
        """
        general = self._generalist.read(rows)
        return self._combine(
            general, [m.lookup(general.ids, general.views, mask_uncovered=True) for m in self._specialists]
        )

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the caches have all ids, and every member covers some of them."""
        for member in self._members:
            member.check(ids, views)

    def covered_keys(self, split: str | None = None) -> RowKeys:
        """Return the ids and views of the rows that the generalist covers (in a split)."""
        return self._generalist.covered_keys(split)

    def to_pandas(self, temperature: float = 1.0, split: str | None = None) -> Any:
        """Return the probabilities at a temperature of every row that the generalist answers, as `Target.to_pandas`."""
        return tables.to_pandas(self, temperature, split)

    def to_hf(self, split: str | None = None, temperature: float = 1.0) -> Any:
        """Return the probabilities at a temperature as a `datasets.Dataset`, as `Target.to_hf` with a temperature."""
        return tables.to_hf(self, temperature, split)

    @property
    def _members(self) -> tuple[Readable, ...]:
        return self._generalist, *self._specialists

    def _combine(self, general: Soft, others: Sequence[Soft]) -> SoftTargets:
        columns = joined_columns(soft.columns for soft in (general, *others))
        columns[ANSWERED] = torch.stack([soft.mask for soft in others], 1)
        decoder = SpecialistsDecoder(general.task, general.decoder, tuple(soft.decoder for soft in others), self._n)
        return SoftTargets(decoder, columns, general.mask, general.keys)


def specialists(generalist: Readable, specialists: Iterable[Readable], *, n: int = 1) -> Specialists:
    """Return a generalist and its specialists as one target, whose students learn from both.

    Reading returns for each sample the q that minimises KL(p_g, q) + sum of KL(p_m, q) over the active specialists m:
    those that know one of the `n` classes which the generalist finds likeliest (Hinton et al. 2015, section 5.4,
    equation 5). A specialist's dustbin is compared with the probability that q gives to all classes that it does not
    know. All distributions are those at the temperature asked for.

    It is computed in float64, to within 1e-9 nats of the least mean KL divergence, where probabilities below 1e-12
    count as 1e-12. If the minimum leaves open how classes share a dustbin, they share it evenly.

    Args:
        generalist: a classification target that knows every class, or an ensemble of such targets.
        specialists: targets of the same label space, with known classes and a dustbin (docs/teachers.md).
        n: how many of the generalist's classes choose the specialists. The paper takes 1.

    A row has an answer where the generalist has one. A specialist without an answer for a row is not active there.

    Raises TaskError for tasks that do not fit together: several distributions a row, other labels, a specialist that
    knows every class, or one without a dustbin. What such a specialist says about its classes leaves the others open,
    and with log q(known classes) in it the sum is no longer convex: it can have several minima.

    Examples:
        >>> summary = softcache.build("recipes/digits/specialists.yaml", "runs/digits")  # into the generalist's cache
        >>> cache = softcache.open("runs/digits")
        >>> both = softcache.specialists(cache["digit@a"], [cache["digit@strokes"], cache["digit@curves"]])
        >>> both.lookup([8, 9]).probs(temperature=2.0).shape
        torch.Size([2, 10])
    """
    return Specialists(generalist, specialists, n)


def _check_generalist(generalist: Readable) -> None:
    check_readable(generalist)
    task = generalist.task
    if task.activation != "softmax" or task.is_list or task.is_map:
        raise TaskError(
            f"{generalist.name} is a {task.kind} target ({task.activation}); specialists are combined where a row is "
            "one distribution over classes"
        )
    if task.known is not None:
        raise TaskError(
            f"{generalist.name} knows {len(task.known)} of {task.space} classes; a generalist knows them all"
        )


def _check_specialist(specialist: Readable, generalist: Readable) -> None:
    check_readable(specialist)
    ours, theirs = generalist.task, specialist.task
    if (theirs.kind, theirs.label_space, theirs.labels) != (ours.kind, ours.label_space, ours.labels):
        raise TaskError(
            f"{specialist.name} and {generalist.name} do not answer about the same classes: {theirs}, {ours}"
        )
    if theirs.known is None:
        raise TaskError(f"{specialist.name} knows every class, so it is not a specialist; use softcache.ensemble")
    if not theirs.dustbin:
        raise TaskError(
            f"{specialist.name} has no dustbin: its probabilities say nothing about the classes that it does not know, "
            "and cannot be combined with one over all classes; give it a dustbin"
        )
