"""Answers of a varying number of items for each row: as many as the row has positions, or boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.checks import AnswerChecks, kind_of
from softcache.builder.answer.jobs import Batch
from softcache.builder.answer.measuring import measure_answers
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs.faults import part_faults
from softcache.codecs.fidelity import Errors
from softcache.errors import CodecError, TeacherError
from softcache.store.buffers import ListColumn
from softcache.teachers import Sequences


class SequenceAnswers:
    """The answers of one target to samples of varying length. A row without an answer has no items."""

    def __init__(self, target: BuildTarget, rows: int) -> None:
        self.target = target
        self.bad: dict[int, str] = {}
        self.errors: list[Errors] = []
        self._checks = AnswerChecks(target)
        self._lengths, self._token_lengths = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self._batches = [self._room(0)]
        self._tokens, self._positions = [np.empty(0, np.int32)], [np.empty(0, np.int32)]

    @classmethod
    def add_output(cls, together: Sequence[Self], output: Any, batch: Batch, *, skip_bad: bool) -> None:
        """Take the teacher's answer to a batch. Raises TeacherError or CodecError as in `Answers`.

        A teacher computes sequences chunk by chunk while they are taken, so each chunk goes to all targets at once.
        """
        output = sequences_of(output, together[0].target)
        incoming = [answers._begin(output, batch) for answers in together]
        for places, chunk in output.chunks:
            numbers = _places(places, incoming[0], together[0].target)
            for answers, own in zip(together, incoming, strict=True):
                answers._take(own, numbers, chunk, skip_bad=skip_bad)
        for answers, own in zip(together, incoming, strict=True):
            answers._end(own, output)

    def sampled(self, output: Any, batch: Batch, share: int) -> Iterator[torch.Tensor]:
        """Yield about `share` of a batch's values, checked as for a build, without keeping any."""
        taken = sequences_of(output, self.target)
        self._begin(taken, batch)
        step = max(sum(taken.lengths) // share, 1)
        for places, chunk in taken.chunks:
            yield self._checks.values(chunk, len(places), batch)[::step].clone()

    @property
    def items(self) -> int:
        """How many positions all rows have."""
        return int(self._lengths.sum())

    def columns(self) -> Mapping[str, ListColumn]:
        """Return the shard's columns, in their order on disk."""
        offsets = _offsets(self._lengths)
        found = {name: ListColumn(column.numpy(), offsets) for name, column in self.encoded().items()}
        if self.target.task.traits.has_tokens:
            found["input_ids"] = ListColumn(np.concatenate(self._tokens), _offsets(self._token_lengths))
            found["positions"] = ListColumn(np.concatenate(self._positions), offsets)
        return found

    def encoded(self) -> dict[str, torch.Tensor]:
        """Return the codec's columns, an item for each position."""
        # Joined only once, since the shard and its statistics both ask for them.
        if len(self._batches) > 1:
            names = self._batches[0]
            self._batches = [{name: np.concatenate([batch[name] for batch in self._batches]) for name in names}]
        return {name: torch.from_numpy(column) for name, column in self._batches[0].items()}

    def _begin(self, output: Sequences, batch: Batch) -> _Incoming:
        """Make room for a batch. Raises TeacherError unless its lengths, tokens and positions are as the task says."""
        _check(output, self.target, batch)
        lengths = np.asarray(output.lengths, np.int64)
        rows = np.repeat(np.asarray(batch.rows, np.int64), lengths)
        columns = self._room(len(rows))
        bad: dict[int, str] = {}
        for part in self._checks.parts:
            given = [
                self._checks.part(part, p, int(n), batch) for p, n in zip(output.parts[part.name], lengths, strict=True)
            ]
            values = torch.cat(given) if given else torch.empty(0)
            bad |= {int(rows[i]): reason for i, reason in part_faults(values, part).items()}
            columns[part.name][:] = values.cpu().numpy()
        return _Incoming(batch=batch, rows=rows, has_values=np.zeros(len(rows), np.bool_), columns=columns, bad=bad)

    def _take(self, incoming: _Incoming, places: Array, chunk: Any, *, skip_bad: bool) -> None:
        """Take the values of some items."""
        values = self._checks.values(chunk, len(places), incoming.batch)
        faults = self.target.codec.faults(values)
        incoming.bad |= {int(incoming.rows[places[i]]): reason for i, reason in faults.items()}
        self._checks.refuse(incoming.bad, incoming.batch.job, skip_bad=skip_bad)
        self.bad.update(incoming.bad)
        incoming.has_values[places] = True
        good = [i for i in range(len(places)) if i not in faults]
        values, places = (values[good], places[good]) if faults else (values, places)
        encoded = self.target.codec.encode(values)
        for name, column in encoded.items():
            incoming.columns[name][places] = column.cpu().numpy()
        numbers = int(self._lengths.sum()) + places
        errors = measure_answers(self.target, values, encoded, numbers, incoming.rows[places], incoming.batch.job)
        self.errors += [] if errors is None else [errors]

    def _end(self, incoming: _Incoming, output: Sequences) -> None:
        """Keep a batch without its bad rows. Raises TeacherError if an item got no values."""
        if not incoming.has_values.all():
            missing = np.sum(~incoming.has_values)
            raise TeacherError(
                f"{self.target.name}: {missing:,} positions of samples {incoming.batch.named} lack values"
            )
        good = ~np.isin(incoming.rows, list(incoming.bad))
        columns = incoming.columns
        self._batches.append({name: column[good] for name, column in columns.items()} if incoming.bad else columns)
        for i, row in enumerate(incoming.batch.rows):
            if row in incoming.bad:
                continue
            self._lengths[row] = output.lengths[i]
            if output.tokens is not None and output.positions is not None:
                self._token_lengths[row] = len(output.tokens[i])
                self._tokens.append(np.asarray(output.tokens[i], np.int32))
                self._positions.append(np.asarray(output.positions[i], np.int32))

    def _room(self, items: int) -> dict[str, Array]:
        return {name: column.numpy() for name, column in self.target.codec.missing(items).items()}


@dataclass(eq=False, kw_only=True)
class _Incoming:
    """A batch while its answers come in.

    Attributes:
        batch: the batch.
        rows: the row of each item, int64 [n].
        has_values: which items have got their values, bool [n].
        columns: the codec's columns, [n, ...] each.
        bad: why rows must not be stored, by row.
    """

    batch: Batch
    rows: Array
    has_values: Array
    columns: dict[str, Array]
    bad: dict[int, str]


def sequences_of(output: Any, target: BuildTarget) -> Sequences:
    """Return a teacher's answer as sequences; a tensor [B, L, C] has L items for each row. Raises TeacherError."""
    plain = not target.task.stored_parts and not target.task.traits.has_tokens
    if plain and isinstance(output, torch.Tensor) and output.ndim == 3:
        return Sequences.from_padded(output, [output.shape[1]] * len(output))
    if not isinstance(output, Sequences):
        raise TeacherError(
            f"{target.name}: output {target.output!r} is {kind_of(output)}; a {target.task.kind} task takes "
            f"softcache.teachers.Sequences{', or a tensor [B, L, C]' if plain else ''}"
        )
    return output


def _places(places: Any, incoming: _Incoming, target: BuildTarget) -> Array:
    """Return the places of a chunk. Raises TeacherError for places that do not exist, or that come twice."""
    numbers = np.asarray(places)
    count = len(incoming.has_values)
    fits = numbers.ndim == 1 and numbers.dtype.kind in "iu"
    fits = fits and not ((numbers < 0) | (numbers >= count)).any()
    if not fits or incoming.has_values[numbers].any() or len(np.unique(numbers)) < len(numbers):
        raise TeacherError(
            f"{target.name}: output {target.output!r} has a chunk for other places than its {count:,} "
            f"positions, or for one twice (samples {incoming.batch.named})"
        )
    return numbers.astype(np.int64)


def _check(output: Sequences, target: BuildTarget, batch: Batch) -> None:
    def wrong(what: str) -> TeacherError:
        return TeacherError(f"{target.name}: output {target.output!r} {what} (samples {batch.named})")

    if len(output.lengths) != len(batch.rows):
        raise wrong(f"has {len(output.lengths)} lengths for {len(batch.rows)} samples")
    wanted = {part.name for part in target.task.stored_parts}
    sizes = {name: len(part) if hasattr(part, "__len__") else 0 for name, part in output.parts.items()}
    if sizes.keys() != wanted or any(size != len(batch.rows) for size in sizes.values()):
        has = ", ".join(f"{name} of {size} samples" for name, size in sizes.items()) or "none"
        raise wrong(f"has the parts {has}; expected {', '.join(sorted(wanted)) or 'none'} of {len(batch.rows)}")
    if not target.task.traits.has_tokens:
        return
    if output.tokens is None or output.positions is None:
        raise wrong("lacks tokens and positions, which causal_lm needs")
    for i, row in enumerate(batch.rows):
        tokens, positions = output.tokens[i], np.asarray(output.positions[i])
        fits = len(positions) == output.lengths[i] and not (np.diff(positions) <= 0).any()
        if not fits or (len(positions) and not 0 <= positions[0] <= positions[-1] < len(tokens) - 1):
            sample = batch.job.ids([row])[0]
            raise wrong(f"of sample {sample!r} does not have {output.lengths[i]} of its {len(tokens) - 1} positions")


def _offsets(lengths: Array) -> Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] >= 2**31:
        raise CodecError(f"{offsets[-1]:,} positions in one fragment; at most 2^31 - 1 fit: lower build.fragment_rows")
    return offsets.astype(np.int32)
