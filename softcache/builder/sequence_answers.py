"""One target's answers for a fragment whose rows are sequences: as many items a row as it has positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softcache.builder.answers import Answers, kind_of
from softcache.builder.jobs import Batch
from softcache.builder.targets import BuildTarget
from softcache.codecs.faults import part_faults
from softcache.errors import CodecError, TeacherError
from softcache.store.buffers import ListColumn
from softcache.teachers import Sequences

Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class _Batch:
    """A batch's answers while they come in: for each item its row, whether it is there, and the codec's columns."""

    batch: Batch
    rows: Array
    there: Array
    columns: dict[str, Array]
    bad: dict[int, str]


class SequenceAnswers(Answers):
    """Answers of one target to samples of varying length. A row without an answer has no items."""

    def __init__(self, target: BuildTarget, rows: int) -> None:
        super().__init__(target)
        self._lengths, self._token_lengths = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self._parts = [self._room(0)]
        self._tokens, self._positions = [np.empty(0, np.int32)], [np.empty(0, np.int32)]

    def begin(self, output: Sequences, batch: Batch) -> _Batch:
        """Make room for a batch. Raises TeacherError unless its lengths, tokens and positions are as the task says."""
        _check(output, self.target, batch)
        lengths = np.asarray(output.lengths, np.int64)
        rows = np.repeat(np.asarray(batch.rows, np.int64), lengths)
        columns = self._room(len(rows))
        bad: dict[int, str] = {}
        for part in self.parts:
            given = [
                self.checked_part(part, p, int(n), batch) for p, n in zip(output.parts[part.name], lengths, strict=True)
            ]
            values = torch.cat(given) if given else torch.empty(0)
            bad |= {int(rows[i]): reason for i, reason in part_faults(values, part).items()}
            columns[part.name][:] = values.cpu().numpy()
        return _Batch(batch, rows, np.zeros(len(rows), np.bool_), columns, bad)

    def take(self, part: _Batch, places: Array, chunk: Any, *, skip_bad: bool) -> None:
        """Take some items' values. Raises TeacherError or CodecError as `RowAnswers.add`."""
        values = self.checked(chunk, len(places), part.batch)
        faults = self.target.codec.faults(values)
        part.bad |= {int(part.rows[places[i]]): reason for i, reason in faults.items()}
        self.refuse(part.bad, part.batch.job, skip_bad=skip_bad)
        part.there[places] = True
        good = [i for i in range(len(places)) if i not in faults]
        values, places = (values[good], places[good]) if faults else (values, places)
        encoded = self.target.codec.encode(values)
        for name, column in encoded.items():
            part.columns[name][places] = column.cpu().numpy()
        self.measure(values, encoded, int(self._lengths.sum()) + places, part.rows[places], part.batch.job)

    def end(self, part: _Batch, output: Sequences) -> None:
        """Keep a batch but for its bad rows. Raises TeacherError if an item has had no values."""
        if not part.there.all():
            missing = np.sum(~part.there)
            raise TeacherError(f"{self.target.name}: {missing:,} positions of samples {part.batch.named} lack values")
        good = ~np.isin(part.rows, list(part.bad))
        self._parts.append({name: column[good] for name, column in part.columns.items()} if part.bad else part.columns)
        for i, row in enumerate(part.batch.rows):
            if row in part.bad:
                continue
            self._lengths[row] = output.lengths[i]
            if output.tokens is not None and output.positions is not None:
                self._token_lengths[row] = len(output.tokens[i])
                self._tokens.append(np.asarray(output.tokens[i], np.int32))
                self._positions.append(np.asarray(output.positions[i], np.int32))

    @property
    def items(self) -> int:
        return int(self._lengths.sum())

    def columns(self) -> Mapping[str, ListColumn]:
        offsets = _offsets(self._lengths)
        found = {name: ListColumn(column.numpy(), offsets) for name, column in self.encoded().items()}
        if self.target.task.traits.has_tokens:
            found["input_ids"] = ListColumn(np.concatenate(self._tokens), _offsets(self._token_lengths))
            found["positions"] = ListColumn(np.concatenate(self._positions), offsets)
        return found

    def encoded(self) -> dict[str, torch.Tensor]:
        # Joined once: the shard and its statistics ask for the same.
        if len(self._parts) > 1:
            self._parts = [{name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}]
        return {name: torch.from_numpy(column) for name, column in self._parts[0].items()}

    def _room(self, items: int) -> dict[str, Array]:
        return {name: column.numpy() for name, column in self.target.codec.missing(items).items()}


def add_sequences(answers: Sequence[SequenceAnswers], output: Any, batch: Batch, *, skip_bad: bool) -> None:
    """Take the teacher's answer to a batch for several targets at once, since it is worked out while it is taken.

    Raises TeacherError for one that is not as the tasks say, CodecError for values that cannot be stored.
    """
    first = answers[0].target
    output = sequences_of(output, first)
    parts = [answer.begin(output, batch) for answer in answers]
    for places, chunk in output.chunks:
        numbers = _places(places, parts[0], first)
        for answer, part in zip(answers, parts, strict=True):
            answer.take(part, numbers, chunk, skip_bad=skip_bad)
    for answer, part in zip(answers, parts, strict=True):
        answer.end(part, output)


def sequences_of(output: Any, target: BuildTarget) -> Sequences:
    """Return a teacher's answer if it is of lists, or a tensor [B, L, C] of as many items each. Raises TeacherError."""
    plain = not target.task.stored_parts and not target.task.traits.has_tokens
    if plain and isinstance(output, torch.Tensor) and output.ndim == 3:
        return Sequences.from_padded(output, [output.shape[1]] * len(output))
    if not isinstance(output, Sequences):
        raise TeacherError(
            f"{target.name}: output {target.output!r} is {kind_of(output)}; a {target.task.kind} task takes "
            f"softcache.teachers.Sequences{', or a tensor [B, L, C]' if plain else ''}"
        )
    return output


def _places(places: Any, part: _Batch, target: BuildTarget) -> Array:
    """Return the places of a chunk. Raises TeacherError unless they are there, and each for the first time."""
    numbers = np.asarray(places)
    fits = numbers.ndim == 1 and numbers.dtype.kind in "iu"
    fits = fits and not ((numbers < 0) | (numbers >= len(part.there))).any()
    if not fits or part.there[numbers].any() or len(np.unique(numbers)) < len(numbers):
        raise TeacherError(
            f"{target.name}: output {target.output!r} has a chunk for other places than its {len(part.there):,} "
            f"positions, or for one twice (samples {part.batch.named})"
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
