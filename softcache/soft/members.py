"""Batches of several targets for the same rows, held as one: the columns of member i are called `i/name`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from softcache.codecs import Decoder
from softcache.errors import AlignmentError, TaskError
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable

Columns = Mapping[str, torch.Tensor]


def joined_columns(members: Iterable[Columns]) -> dict[str, torch.Tensor]:
    """Return the columns of all members."""
    return {f"{i}/{name}": column for i, columns in enumerate(members) for name, column in columns.items()}


def member_columns(columns: Columns, member: int) -> dict[str, torch.Tensor]:
    """Return the columns of one member, by its own names."""
    prefix = f"{member}/"
    return {name.removeprefix(prefix): c for name, c in columns.items() if name.startswith(prefix)}


def items_of_each(members: Sequence[Decoder], columns: Columns) -> tuple[list[Decoder], dict[str, torch.Tensor]]:
    """Return the members' decoders of single items, and their columns."""
    each = [m.per_item(member_columns(columns, i)) for i, m in enumerate(members)]
    return [decoder for decoder, _ in each], joined_columns(items for _, items in each)


def check_same_rows(parts: Sequence[Soft]) -> None:
    """Raise AlignmentError unless batches have the same samples and views in the same order."""
    first = parts[0]
    for part in parts[1:]:
        if not (np.array_equal(part.ids, first.ids) and np.array_equal(part.views, first.views)):
            raise AlignmentError("the members do not have the same samples in these rows; use lookup by id")


def listed(members: Iterable[Any]) -> tuple[Any, ...]:
    """Return targets that are given as a list or the like. Raises TaskError if they are not."""
    if not isinstance(members, Iterable) or isinstance(members, str):
        raise TaskError(f"{members!r:.100} is not a list of targets; give one, as [cache[name], ...]")
    return tuple(members)


def check_readable(member: Readable) -> None:
    """Raise TaskError unless something is a target, or reads like one, and has probabilities."""
    if not hasattr(member, "lookup"):
        raise TaskError(f"{member!r} is not a target; use cache[name]")
    if not member.task.has_temperature:
        raise TaskError(f"{member.name} is a {member.task.kind} target, which has no probabilities to combine")
