"""Ensembles: the mean of several targets' distributions, computed when they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch

from softcache.errors import AlignmentError, TaskError
from softcache.soft import tables
from softcache.soft.ensemble_decoder import EnsembleDecoder
from softcache.soft.keys import RowKeys
from softcache.soft.means import MEANS
from softcache.soft.members import check_readable, check_same_rows, joined_columns, listed
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable
from softcache.soft.same_positions import same_positions
from softcache.soft.sequences import SoftSequences
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec


class Ensemble:
    """Several targets read as one. Made by `softcache.ensemble`."""

    def __init__(self, targets: Iterable[Readable], mean: str, weights: Sequence[float] | None) -> None:
        members = listed(targets)
        if not members:
            raise TaskError("an ensemble needs at least one target")
        for member in members:
            _check_member(member, members[0])
        if mean not in MEANS:
            raise TaskError(f"mean is {mean!r}; expected one of {', '.join(MEANS)}")
        shares = _shares(weights, members)
        # A target of weight 0 has no part in the mean, nor in which rows have an answer.
        self._members: tuple[Readable, ...] = tuple(m for m, share in zip(members, shares, strict=True) if share > 0)
        self._weights = tuple(share for share in shares if share > 0)
        self._mean, self._is_weighted = mean, weights is not None

    @property
    def name(self) -> str:
        """The members' names, joined by `+`, with their weights if they have any: `geometric(...)` of another mean."""
        names = [m.name for m in self._members]
        if self._is_weighted:
            names = [f"{weight:.3g}*{name}" for weight, name in zip(self._weights, names, strict=True)]
        joined = "+".join(names)
        return joined if self._mean == "arithmetic" else f"{self._mean}({joined})"

    @property
    def task(self) -> TaskSpec:
        """The task that all members answer."""
        return self._members[0].task

    @property
    def most_views(self) -> int:
        """How many views of a sample the members' caches have at most."""
        return max(m.most_views for m in self._members)

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> SoftTargets | SoftSequences:
        """Return soft targets joined by id.

        A row, or a position of a sequence, has an answer where every member has one. Raises as a target's `lookup`, and
        AlignmentError for sequences whose lengths or tokens differ between the members.
        """
        asked: dict[str, Any] = {"hashes": hashes, "input_ids": input_ids, "mask_uncovered": mask_uncovered}
        return self._combine([m.lookup(ids, views, **asked) for m in self._members])

    def lookup_spans(
        self, ids: Any, starts: Any, lengths: Any, views: Any = None, *, input_ids: Any = None
    ) -> SoftSequences:
        """Return spans of sequences, joined by id. Raises as a target's `lookup_spans`, and as `lookup`."""
        return self._sequences(
            [m.lookup_spans(ids, starts, lengths, views, input_ids=input_ids) for m in self._members]
        )

    def read(self, rows: Any) -> SoftTargets | SoftSequences:
        """Return soft targets by row number. Raises AlignmentError if the members number their rows differently."""
        return self._combine([m.read(rows) for m in self._members])

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and every member covers some of them."""
        for member in self._members:
            member.check(ids, views)

    def covered_keys(self, split: str | None = None) -> RowKeys:
        """Return the ids and views of the rows that every member covers (in a split), in the first one's order.

        Raises TaskError for a split that a member does not have, AlignmentError if no row is covered by all.
        """
        keys = self._members[0].covered_keys(split)
        for member in self._members[1:]:
            keys = keys.take(_shared(keys, member.covered_keys(split)))
        if not len(keys.views):
            raise AlignmentError(f"no row is covered by every member of {self.name}")
        return keys

    def to_pandas(self, temperature: float = 1.0, split: str | None = None) -> Any:
        """Return the probabilities at a temperature of every row that all members answer, as `Target.to_pandas`.

        Members from several caches are joined by sample id and view.
        """
        return tables.to_pandas(self, temperature, split)

    def to_hf(self, split: str | None = None, temperature: float = 1.0) -> Any:
        """Return the probabilities at a temperature as a `datasets.Dataset`, as `Target.to_hf` with a temperature.

        Members from several caches are joined by sample id and view.
        """
        return tables.to_hf(self, temperature, split)

    def _combine(self, parts: Sequence[Soft]) -> SoftTargets | SoftSequences:
        if isinstance(parts[0], SoftSequences):
            return self._sequences(cast(list[SoftSequences], parts))
        check_same_rows(parts)
        mask = torch.stack([part.mask for part in parts]).all(0)
        return SoftTargets(self._decoder(parts), joined_columns(p.columns for p in parts), mask, parts[0].keys)

    def _sequences(self, parts: Sequence[SoftSequences]) -> SoftSequences:
        check_same_rows(parts)
        parts = same_positions(parts)
        return SoftSequences(
            decoder=self._decoder(parts),
            columns=joined_columns(part.columns for part in parts),
            mask=parts[0].mask,
            keys=parts[0].keys,
            lengths=parts[0].lengths,
            packed_tokens=parts[0].packed_tokens,
        )

    def _decoder(self, parts: Sequence[Soft]) -> EnsembleDecoder:
        return EnsembleDecoder(parts[0].task, tuple(part.decoder for part in parts), self._weights, self._mean)


def ensemble(
    targets: Iterable[Readable], *, mean: str = "arithmetic", weights: Sequence[float] | None = None
) -> Ensemble:
    """Return an ensemble of targets that answer one task, from one cache or several.

    It reads like a target. Reading averages the members' probabilities at the temperature asked for (Hinton et al.
    2015, section 1, which names both means). Sequences are averaged position by position, maps place by place.

    Args:
        targets: targets, or ensembles of them.
        mean: `arithmetic`, sum_k w_k p_k; or `geometric`, prod_k p_k^w_k divided by its sum over the classes, which is
            the softmax of the mean logits. With sigmoid each class is a distribution over two outcomes.
        weights: one number of at least 0 for each target, by default all the same; they are divided by their sum. A
            target of weight 0 is left out.

    A class that one member rules out has the others' share in an arithmetic mean, and is ruled out by a geometric one.

    Raises TaskError if the tasks differ, for boxes, and for an unknown mean or weights that are no weights. Reading
    raises TaskError where the members rule out every class between them, so that no geometric mean exists, and for a
    geometric mean of sampled classes.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> mean = softcache.ensemble([cache["digit@a"], cache["digit@b"]])
        >>> mean.name, mean.lookup([0, 1]).probs(temperature=2.0).shape
        ('digit@a+digit@b', torch.Size([2, 10]))
        >>> softcache.ensemble([cache["digit@a"], cache["digit@b"]], mean="geometric", weights=[3, 1]).name
        'geometric(0.75*digit@a+0.25*digit@b)'
    """
    return Ensemble(targets, mean, weights)


def _check_member(member: Readable, first: Readable) -> None:
    check_readable(member)
    if "boxes" in member.task.parts:
        raise TaskError(
            f"{member.name} is a {member.task.kind} target: each teacher finds boxes of its own, and different boxes "
            "have no mean; use one target"
        )
    if _answered(member.task) != _answered(first.task):
        raise TaskError(f"{member.name} and {first.name} do not answer the same task: {member.task}, {first.task}")


def _answered(task: TaskSpec) -> tuple[Any, ...]:
    """Return what two tasks must share if their distributions are averaged."""
    return task.kind, task.shape, task.labels, task.activation, task.space, task.known, task.dustbin, task.tokenizer


def _shares(weights: Sequence[float] | None, members: Sequence[Readable]) -> list[float]:
    """Return weights that add up to 1. Raises TaskError unless there is one of at least 0 for each member."""
    if weights is None:
        return [1 / len(members)] * len(members)
    try:
        given = [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise TaskError(f"weights are {weights!r}; expected one number for each target") from None
    if len(given) != len(members):
        raise TaskError(f"{len(given)} weights for {len(members)} targets; expected one for each")
    for weight, member in zip(given, members, strict=True):
        if not 0 <= weight < math.inf:
            raise TaskError(f"the weight of {member.name} is {weight}; expected a finite number of at least 0")
    total = sum(given)
    if not 0 < total < math.inf:
        raise TaskError(f"the weights add up to {total}; expected a finite sum above 0")
    return [weight / total for weight in given]


def _shared(keys: RowKeys, others: RowKeys) -> Any:
    """Return which rows another target has too, bool [n]."""
    theirs = set(zip(others.ids.tolist(), others.views.tolist(), strict=True))
    ours = zip(keys.ids.tolist(), keys.views.tolist(), strict=True)
    return np.fromiter((key in theirs for key in ours), np.bool_, len(keys.views))
