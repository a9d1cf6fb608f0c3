"""Soft targets of rows that are sequences: a distribution at each of a varying number of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from softcache.codecs import SparseLogProbs, Temperature, check_temperature
from softcache.errors import AlignmentError, TaskError, counted, name_some
from softcache.read.row_keys import KnownKeys
from softcache.read.soft_targets import SoftTargets, check_dense_size

NO_TOKEN = -100


@dataclass(frozen=True, eq=False)
class SoftSequences(SoftTargets):
    """A batch of B sequences of one target, with N stored positions in all.

    What is asked of it comes padded to the longest sequence, L positions: `values`, `log_probs` and `mask` are [B, L,
    ...]. A student that sees the same tokens has its logits of position t in the same place.

    Attributes:
        columns: the codec's columns, each [N, ...], the positions of one sequence after those of another, ascending.
        mask: bool [B, L], True where a position is stored, N times in all. False where there is nothing: past a
            sequence's end, at positions that are not stored (of a language model the last token, whose next one is not
            known), in samples without an answer. It says which position each of the columns' N items is of.
        lengths: int64 [B], the positions of each sequence.
        packed_tokens: of causal_lm all sequences' tokens with the one after each, int32, and each one's count, int64.
    """

    lengths: torch.Tensor
    packed_tokens: tuple[torch.Tensor, torch.Tensor] | None

    @property
    def row(self) -> torch.Tensor:
        """The sequence of each stored position, int64 [N]."""
        return self._at[0]

    @property
    def place(self) -> torch.Tensor:
        """The position in its sequence of each stored one, int64 [N]."""
        return self._at[1]

    @property
    def stored(self) -> int:
        """How many positions are stored, N."""
        return len(next(iter(self.columns.values())))

    @cached_property
    def _at(self) -> tuple[torch.Tensor, ...]:
        return self.mask.nonzero(as_tuple=True)

    @property
    def tokens(self) -> torch.Tensor:
        """The tokens of each sequence and the one after it, int32 [B, L + 1], -100 where there is none.

        Raises TaskError unless the target is causal_lm.
        """
        if self.packed_tokens is None:
            raise TaskError(f"a {self.task.kind} target has no tokens")
        items, counts = self.packed_tokens
        found = torch.full((len(self), self.mask.shape[1] + 1), NO_TOKEN, dtype=items.dtype, device=self.device)
        found[torch.arange(found.shape[1], device=self.device) < counts[:, None]] = items
        return found

    @property
    def packed(self) -> SoftTargets:
        """The stored positions one after the other, [N, ...], each with the key of its sample."""
        keys = self.keys.take(self.row.cpu().numpy())
        answered = torch.ones(self.stored, dtype=torch.bool, device=self.device)
        return SoftTargets(self.decoder, self.columns, answered, keys)

    @property
    def values(self) -> torch.Tensor:
        """The stored values as `SoftTargets.values` has them, [B, L, ...]; NaN (0 for integers) where not `mask`."""
        return self._padded(self.decoder.values(self.columns))

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The task's further numbers of each item, float32 [B, L, ...], NaN where not `mask`."""
        return {part.name: self._padded(self.columns[part.name]) for part in self.task.stored_parts}

    def log_probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return log p(T), float32 [B, L, C], NaN where not `mask`.

        `temperature` is a number or a tensor [B]. Raises TaskError as `SoftTargets.log_probs`.
        """
        check_dense_size(self.mask.numel(), self.task)
        return self._padded(self.decoder.log_probs(self.columns, self.temperatures(temperature)))

    def sparse_log_probs(self, temperature: Temperature = 1.0) -> SparseLogProbs:
        """Return the stored classes [B, L, k], their log p(T), and the log of the others' mass [B, L].

        NaN where not `mask`. Raises TaskError as `SoftTargets.sparse_log_probs`.
        """
        found = self.packed.sparse_log_probs(self.temperatures(temperature))
        return SparseLogProbs(*map(self._padded, found))

    def temperatures(self, temperature: Temperature) -> Temperature:
        """Return a temperature for each stored position from one for all, or one for each sequence [B]."""
        t = check_temperature(temperature, len(self))
        return t.to(self.device)[self.row] if isinstance(t, torch.Tensor) else t

    def index(self, shape: Sequence[int]) -> torch.Tensor:
        """Return which stored position answers each of a student's logits, int64 of `shape`, -1 where none does.

        `shape` is [B, L'] with L' >= L, or [sum of lengths] for sequences one after the other without padding. Raises
        TaskError for any other.
        """
        total = int(self.lengths.sum())
        if len(shape) == 2 and shape[0] == len(self) and shape[1] >= self.mask.shape[1]:
            place = self.row * shape[1] + self.place
        elif len(shape) == 1 and shape[0] == total:
            place = (self.lengths.cumsum(0) - self.lengths)[self.row] + self.place
        else:
            raise TaskError(
                f"the student answers {list(shape)} positions; expected [{len(self)}, {self.mask.shape[1]}] or longer, "
                f"or [{total}] for all sequences one after the other"
            )
        found = torch.full((math.prod(shape),), -1, dtype=torch.int64, device=self.device)
        found[place] = torch.arange(len(place), device=self.device)
        return found.view(*shape)

    def next_tokens(self, width: int | None = None) -> torch.Tensor:
        """Return the token that follows each position, -100 where none is stored: hard labels, int64 [B, L].

        With `width` >= L they are padded to [B, width], as a student's logits are. Raises TaskError unless the target
        is causal_lm.
        """
        if width is not None and width < self.mask.shape[1]:
            raise TaskError(f"width is {width}; the longest sequence has {self.mask.shape[1]} positions")
        found = torch.where(self.mask, self.tokens[:, 1:].long(), NO_TOKEN)
        return found if width is None else _widen(found, width, NO_TOKEN)

    def check_input_ids(self, input_ids: Any) -> None:
        """Compare the student's token ids with those that the teacher saw.

        They are integers [B, at least L], padded, or a list of B lists. All tokens are compared that an answer depends
        on: all of the sample or span but, of a whole sample, its last. Raises AlignmentError naming samples whose ids
        differ, TaskError unless the target is causal_lm.
        """
        tokens = self.tokens
        ids = _token_rows(input_ids).to(self.device)
        if ids.ndim != 2 or len(ids) != len(self) or ids.shape[1] < self.mask.shape[1]:
            raise AlignmentError(
                f"input_ids are {list(ids.shape)}; expected [{len(self)}, {self.mask.shape[1]}] or longer, padded"
            )
        width = min(ids.shape[1], tokens.shape[1])
        # Those that the answers depend on: the token after the last position is not among them.
        ours = torch.arange(width, device=self.device) < self.lengths[:, None]
        wrong = (ours & (ids[:, :width] != tokens[:, :width]) & (tokens[:, :width] != NO_TOKEN)).any(1).cpu().numpy()
        if wrong.any():
            names = name_some(self.ids[wrong].tolist())
            raise AlignmentError(
                f"not the token ids that the teacher saw: {counted(int(wrong.sum()), 'sample')}, {names}; tokenise "
                "them as the teacher's tokenizer does, or build for these"
            )

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> SoftSequences:
        """Return batches of one target as one."""
        first: SoftSequences = parts[0]
        longest = max(p.mask.shape[1] for p in parts)
        return replace(
            first,
            columns={name: torch.cat([p.columns[name] for p in parts]) for name in first.columns},
            mask=torch.cat([_widen(p.mask, longest, False) for p in parts]),
            keys=KnownKeys(np.concatenate([p.ids for p in parts]), np.concatenate([p.views for p in parts])),
            lengths=torch.cat([p.lengths for p in parts]),
            packed_tokens=None if first.packed_tokens is None else _joined([p.packed_tokens for p in parts]),
        )

    def _picked(self, here: Any, there: Any) -> SoftSequences:
        chosen = torch.arange(len(self), device=self.device)[there]
        items = _items_of(chosen, self.mask.sum(1))
        lengths, tokens = self.lengths[chosen], None
        if self.packed_tokens is not None:
            all_tokens, token_counts = self.packed_tokens
            tokens = all_tokens[_items_of(chosen, token_counts)], token_counts[chosen]
        return replace(
            self,
            columns={name: column[items] for name, column in self.columns.items()},
            mask=self.mask[chosen, : int(lengths.max()) if len(lengths) else 0],
            keys=self.keys.take(here),
            lengths=lengths,
            packed_tokens=tokens,
        )

    def _map(self, change: Any) -> Self:
        tokens = None if self.packed_tokens is None else (change(self.packed_tokens[0]), change(self.packed_tokens[1]))
        return replace(super()._map(change), lengths=change(self.lengths), packed_tokens=tokens)

    def _padded(self, items: torch.Tensor) -> torch.Tensor:
        fill = math.nan if items.is_floating_point() else 0
        found = torch.full((*self.mask.shape, *items.shape[1:]), fill, dtype=items.dtype, device=items.device)
        found[self._at] = items
        return found


def _token_rows(given: Any) -> torch.Tensor:
    """Return token ids as int64 [B, L], lists padded with what is no token. Raises AlignmentError."""
    try:
        if not isinstance(given, torch.Tensor):
            rows = [np.asarray(row) for row in given]
            width = max(map(len, rows), default=0)
            padded = [np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows if row.dtype.kind in "iu"]
            given = (
                torch.from_numpy(np.stack(padded).astype(np.int64)) if padded else torch.empty(0, 0, dtype=torch.int64)
            )
            if len(padded) < len(rows):
                raise TypeError("not integers")
        if given.is_floating_point() or given.dtype == torch.bool:
            raise TypeError(f"{given.dtype}")
        return torch.as_tensor(given).long()
    except (TypeError, ValueError) as e:
        raise AlignmentError(f"input_ids are no integers [B, L]: {e}") from e


def _items_of(chosen: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return where the items of chosen sequences are, each as often as it is chosen.

    `counts` [B] are the items of each sequence, one sequence after the other.
    """
    begins, picked = counts.cumsum(0) - counts, counts[chosen]
    row = torch.repeat_interleave(torch.arange(len(chosen), device=chosen.device), picked)
    within = torch.arange(len(row), device=chosen.device) - (picked.cumsum(0) - picked)[row]
    return begins[chosen][row] + within


def _joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([items for items, _ in parts]), torch.cat([counts for _, counts in parts])


def _widen(rows: torch.Tensor, width: int, fill: int | bool) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=fill)
