"""Ensembles: the mean of several targets' distributions, computed when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softcache.codecs import Decoder, Temperature
from softcache.errors import AlignmentError, TaskError
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec


@dataclass(frozen=True)
class EnsembleDecoder(Decoder):
    """Averages its members' probabilities. The columns of member i are called `i/name`."""

    members: tuple[Decoder, ...]

    @property
    def covers_all(self) -> bool:
        return all(member.covers_all for member in self.members)

    def per_item(self, columns: Mapping[str, torch.Tensor]) -> tuple[Decoder, Mapping[str, torch.Tensor]]:
        """Return the members' decoders of single items, and their columns."""
        each = [m.per_item(_own(columns, i)) for i, m in enumerate(self.members)]
        items = {f"{i}/{name}": column for i, (_, found) in enumerate(each) for name, column in found.items()}
        return _mean([decoder for decoder, _ in each]), items

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the values of the K members, [B, K, *task.shape]. Raises TaskError if their shapes differ."""
        each = [m.values(_own(columns, i)) for i, m in enumerate(self.members)]
        if len({values.shape for values in each}) > 1:
            raise TaskError(
                "the ensemble's members are stored in different codecs, so their values have no common shape"
            )
        return torch.stack(each, dim=1)

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return the log of the arithmetic mean of the members' p(T) (Hinton et al. 2015, section 1)."""
        each = [m.log_probs(_own(columns, i), temperature) for i, m in enumerate(self.members)]
        return torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))

    def log_outcomes(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return the logs of the arithmetic means of the members' p(T) and 1 - p(T)."""
        each = [m.log_outcomes(_own(columns, i), temperature) for i, m in enumerate(self.members)]
        return torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))


class Ensemble:
    """Several targets read as one. Made by `softcache.ensemble`."""

    def __init__(self, members: Sequence[Readable]) -> None:
        if not members:
            raise TaskError("an ensemble needs at least one target")
        first = members[0]
        for member in members:
            if not hasattr(member, "lookup"):
                raise TaskError(f"{member!r} is not a target; use cache[name]")
            if not member.task.has_temperature:
                raise TaskError(f"{member.name} is a {member.task.kind} target; an ensemble averages probabilities")
            if member.task.is_list:
                raise TaskError(
                    f"{member.name} is a {member.task.kind} target; ensembles of sequences are not supported yet"
                )
            if _answered(member.task) != _answered(first.task):
                raise TaskError(
                    f"{member.name} and {first.name} do not answer the same task: {member.task}, {first.task}"
                )
        self._members = tuple(members)

    @property
    def name(self) -> str:
        """The members' names, joined by `+`."""
        return "+".join(m.name for m in self._members)

    @property
    def task(self) -> TaskSpec:
        """The task that all members answer."""
        return self._members[0].task

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> SoftTargets:
        """Return soft targets joined by id.

        A row has an answer where every member has one. Raises as a target's `lookup`.
        """
        asked: dict[str, Any] = {"hashes": hashes, "input_ids": input_ids, "mask_uncovered": mask_uncovered}
        return _combine([m.lookup(ids, views, **asked) for m in self._members])

    def read(self, rows: Any) -> SoftTargets:
        """Return soft targets by row number. Raises AlignmentError if the members number their rows differently."""
        return _combine([m.read(rows) for m in self._members])

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and every member covers some of them."""
        for member in self._members:
            member.check(ids, views)


def ensemble(targets: Sequence[Readable]) -> Ensemble:
    """Return an ensemble of targets that answer one task, from one cache or several.

    It reads like a target. Reading averages the members' probabilities at the temperature asked for (Hinton et al.
    2015, section 1). Raises TaskError if the tasks differ.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> mean = softcache.ensemble([cache["digit@a"], cache["digit@b"]])
        >>> mean.name, mean.lookup([0, 1]).probs(temperature=2.0).shape
        ('digit@a+digit@b', torch.Size([2, 10]))
    """
    return Ensemble(targets)


def _answered(task: TaskSpec) -> tuple[Any, ...]:
    """Return what two tasks must share if their distributions are averaged."""
    return task.kind, task.shape, task.labels, task.activation, task.known, task.dustbin


def _mean(members: Sequence[Decoder]) -> EnsembleDecoder:
    return EnsembleDecoder(members[0].task, tuple(members))


def _own(columns: Mapping[str, torch.Tensor], member: int) -> dict[str, torch.Tensor]:
    prefix = f"{member}/"
    return {name.removeprefix(prefix): c for name, c in columns.items() if name.startswith(prefix)}


def _combine(parts: Sequence[Soft]) -> SoftTargets:
    first = parts[0]
    for part in parts[1:]:
        if not (np.array_equal(part.ids, first.ids) and np.array_equal(part.views, first.views)):
            raise AlignmentError("the ensemble's members do not have the same samples in these rows; use lookup by id")
    columns = {f"{i}/{name}": c for i, part in enumerate(parts) for name, c in part.columns.items()}
    mask = torch.stack([p.mask for p in parts]).all(0)
    return SoftTargets(_mean([p.decoder for p in parts]), columns, mask, first.keys)
