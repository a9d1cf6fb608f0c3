"""Soft targets of rows that are sequences: a distribution at each of a varying number of positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from softcache.arrays import Array
from softcache.codecs import Decoder, SparseLogProbs, Temperature, check_temperature
from softcache.errors import TaskError
from softcache.once import once
from softcache.soft.alignment import check_frames, check_tokens, nearest_frames, read_lengths
from softcache.soft.keys import RowKeys
from softcache.soft.packing import NO_TOKEN, PackedTokens, items_of, joined_tokens, widened
from softcache.soft.rows import Rows, chosen_rows, joined_keys
from softcache.soft.targets import SoftTargets, check_dense_size
from softcache.tasks import TaskSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftSequences:
    """A batch of B sequences of one target, with N stored positions in all. Made like `SoftTargets`.

    Results come padded to the longest sequence, L positions: `values`, `log_probs` and `mask` are [B, L, ...]. A
    student that sees the same tokens has its logits of position t in the same place.

    Attributes:
        decoder: what turns the columns into values and distributions.
        columns: the stored columns, each [N, ...]: the positions of the first sequence, ascending, then those of the
            second, and so on.
        mask: bool [B, L], True at the N stored positions. It is False past a sequence's end, at positions that are not
            stored (in a language model the last token, whose next token is unknown), and in samples without an answer.
        keys: the sequences' sample ids and views.
        lengths: int64 [B], the number of positions of each sequence.
        packed_tokens: for causal_lm the tokens of all sequences, each with the token after it, int32, and how many
            tokens each sequence has, int64 [B]. None for other tasks.

    Examples:
        >>> import numpy as np
        >>> from softcache.codecs import DenseCodec
        >>> from softcache.soft.keys import KnownKeys
        >>> from softcache.tasks import TaskSpec
        >>> codec, lengths = DenseCodec(TaskSpec("sequence", (4,), "logits")), torch.tensor([3, 1])
        >>> soft = softcache.SoftSequences(
        ...     decoder=codec.decoder,
        ...     columns=codec.encode(torch.randn(4, 4)),
        ...     mask=torch.arange(3) < lengths[:, None],
        ...     keys=KnownKeys(np.array([7, 8]), np.zeros(2, np.int32)),
        ...     lengths=lengths,
        ...     packed_tokens=None,
        ... )
        >>> soft.log_probs(temperature=2.0).shape
        torch.Size([2, 3, 4])
    """

    decoder: Decoder
    columns: Mapping[str, torch.Tensor]
    mask: torch.Tensor
    keys: RowKeys
    lengths: torch.Tensor
    packed_tokens: PackedTokens | None

    @property
    def ids(self) -> Array:
        """Sample ids: numpy int64 [B], or objects (str) [B]."""
        return self.keys.ids

    @property
    def views(self) -> Array:
        """Views: numpy int32 [B]."""
        return self.keys.views

    @property
    def task(self) -> TaskSpec:
        """The task that these sequences answer."""
        return self.decoder.task

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.mask.device

    @property
    def answered(self) -> torch.Tensor:
        """Which sequences have an answer at any position, bool [B]."""
        return self.mask.any(1)

    @property
    def row(self) -> torch.Tensor:
        """The sequence of each stored position, int64 [N]."""
        return self._at[0]

    @property
    def place(self) -> torch.Tensor:
        """The position in its sequence of each stored one, int64 [N]."""
        return self._at[1]

    @property
    def items(self) -> int:
        """How many positions are stored, N."""
        return len(next(iter(self.columns.values())))

    @once
    def _at(self) -> tuple[torch.Tensor, ...]:
        return self.mask.nonzero(as_tuple=True)

    @property
    def tokens(self) -> torch.Tensor:
        """The tokens of each sequence and the token after it, int32 [B, L + 1], -100 where there is none.

        Raises TaskError unless the target is causal_lm.
        """
        if self.packed_tokens is None:
            raise TaskError(f"a {self.task.kind} target has no tokens")
        items, counts = self.packed_tokens
        found = torch.full((len(self), self.mask.shape[1] + 1), NO_TOKEN, dtype=items.dtype, device=self.device)
        return found.masked_scatter(torch.arange(found.shape[1], device=self.device) < counts[:, None], items)

    @property
    def packed(self) -> SoftTargets:
        """The stored positions as N rows, one after the other, each with the key of its sample."""
        keys = self.keys.take(self.row.cpu().numpy())
        answered = torch.ones(self.items, dtype=torch.bool, device=self.device)
        return SoftTargets(self.decoder, self.columns, answered, keys)

    @property
    def values(self) -> torch.Tensor:
        """The stored values as in `SoftTargets.values`, [B, L, ...]; NaN (0 for integers) where `mask` is False."""
        return self._padded(self.decoder.values(self.columns))

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The task's further numbers by name, float32 [B, L, ...]: `boxes` of detection, for instance."""
        return {part.name: self._padded(self.columns[part.name]) for part in self.task.stored_parts}

    def log_probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return log p(T), float32 [B, L, C], NaN where `mask` is False.

        `temperature` is a number or a tensor [B]. Raises TaskError as `SoftTargets.log_probs`.
        """
        check_dense_size(self.mask.numel(), self.task)
        return self._padded(self.decoder.log_probs(self.columns, self.item_temperatures(temperature)))

    def sparse_log_probs(self, temperature: Temperature = 1.0) -> SparseLogProbs:
        """Return the stored classes [B, L, k], their log p(T), and the log of the others' mass [B, L].

        NaN where `mask` is False. Raises TaskError as `SoftTargets.sparse_log_probs`.
        """
        found = self.packed.sparse_log_probs(self.item_temperatures(temperature))
        return SparseLogProbs(*map(self._padded, found))

    def probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return p(T), float32 [B, L, C], NaN where `mask` is False. Raises as `log_probs`."""
        return self.log_probs(temperature).exp()

    def item_temperatures(self, temperature: Temperature) -> Temperature:
        """Return one temperature for all stored positions, if one is given, or from float32 [B] one for each, [N]."""
        t = check_temperature(temperature, len(self))
        return t.to(self.device)[self.row] if isinstance(t, torch.Tensor) else t

    def items_for(self, shape: Sequence[int], lengths: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of a student's positions are stored, bool, and which stored position answers each, int64.

        `shape` is [B, L'], or [sum of lengths] for sequences one after the other without padding; the results are in
        one line, and -1 where no stored position answers. L' is L; for causal_lm, or if the student's `lengths` [B] are
        given, it may be larger. Raises TaskError for any other shape, AlignmentError for other lengths.
        """
        if self.packed_tokens is None or lengths is not None:
            check_frames(shape, self.mask.shape[1], self.lengths, self.answered, self.ids, lengths)
        items = self.index(shape).view(-1)
        return items >= 0, items

    def per_position(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return values [B] for each of a student's positions (`shape` as for `items_for`), in one line."""
        return values.repeat_interleave(self.lengths if len(shape) == 1 else math.prod(shape[1:]))

    def index(self, shape: Sequence[int]) -> torch.Tensor:
        """Return which stored position answers each of a student's positions, int64 of `shape`, -1 where none does.

        `shape` is [B, L'] with L' >= L, or [sum of lengths]. Raises TaskError for any other shape.
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
        return found if width is None else widened(found, width, NO_TOKEN)

    def check_input_ids(self, input_ids: Any) -> None:
        """Compare the student's token ids with those that the teacher saw.

        `input_ids` are integers [B, at least L], padded, or a list of B lists. Compared are all tokens that an answer
        depends on, that is all tokens of the sample or span except the last token of a whole sample. Raises
        AlignmentError naming samples whose ids differ, TaskError unless the target is causal_lm.
        """
        check_tokens(self.tokens, self.lengths, input_ids, self.ids)

    def resample(self, lengths: Any) -> SoftSequences:
        """Return the answers for a student of another frame rate, that has `lengths` frames of each sequence.

        `lengths` are integers [B]; for a student of twice the rate, `2 * soft.lengths`. Each of the student's frames
        gets the answer of the teacher's frame at its middle. Raises TaskError for a causal_lm target, whose positions
        are tokens, and for lengths that are none.
        """
        if self.packed_tokens is not None:
            raise TaskError(f"the positions of a {self.task.kind} target are tokens, which have no frame rate")
        ours = read_lengths(lengths, len(self)).to(self.device)
        width = self.mask.shape[1] + 1
        # Past a sequence's end the frame is -1, which picks the -1 after the last position.
        items = widened(self.index(self.mask.shape), width, -1).gather(1, nearest_frames(self.lengths, ours) % width)
        columns = {name: column[items[items >= 0]] for name, column in self.columns.items()}
        return replace(self, columns=columns, mask=items >= 0, lengths=ours)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SoftSequences:
        """Return the same sequences on a device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftSequences:
        """Return the same sequences in pinned memory."""
        return self._map(torch.Tensor.pin_memory)

    def __len__(self) -> int:
        """Return the number of sequences, B."""
        return len(self.mask)

    def __getitem__(self, rows: Rows) -> SoftSequences:
        """Return some of the sequences, always as a batch: `soft[i]`, `soft[i:j]`, `soft[mask]`, `soft[positions]`."""
        here, there = chosen_rows(rows, len(self), self.device)
        chosen = torch.arange(len(self), device=self.device)[there]
        items = items_of(chosen, self.mask.sum(1))
        lengths, tokens = self.lengths[chosen], None
        if self.packed_tokens is not None:
            all_tokens, token_counts = self.packed_tokens
            tokens = all_tokens[items_of(chosen, token_counts)], token_counts[chosen]
        return replace(
            self,
            columns={name: column[items] for name, column in self.columns.items()},
            mask=self.mask[chosen, : int(lengths.max()) if len(lengths) else 0],
            keys=self.keys.take(here),
            lengths=lengths,
            packed_tokens=tokens,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> SoftSequences:
        """Return batches of one target as one."""
        first: SoftSequences = parts[0]
        longest = max(p.mask.shape[1] for p in parts)
        return replace(
            first,
            columns={name: torch.cat([p.columns[name] for p in parts]) for name in first.columns},
            mask=torch.cat([widened(p.mask, longest, False) for p in parts]),
            keys=joined_keys([p.keys for p in parts]),
            lengths=torch.cat([p.lengths for p in parts]),
            packed_tokens=None if first.packed_tokens is None else joined_tokens([p.packed_tokens for p in parts]),
        )

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SoftSequences:
        tokens = None if self.packed_tokens is None else (change(self.packed_tokens[0]), change(self.packed_tokens[1]))
        return replace(
            self,
            columns={name: change(column) for name, column in self.columns.items()},
            mask=change(self.mask),
            lengths=change(self.lengths),
            packed_tokens=tokens,
        )

    def _padded(self, items: torch.Tensor) -> torch.Tensor:
        fill = math.nan if items.is_floating_point() else 0
        found = torch.full((*self.mask.shape, *items.shape[1:]), fill, dtype=items.dtype, device=items.device)
        found[self._at] = items
        return found
