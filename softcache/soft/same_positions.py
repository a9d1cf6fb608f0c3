"""Sequences of several targets, narrowed to the positions that all of them answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from softcache.errors import AlignmentError, counted, name_some
from softcache.soft.packing import NO_TOKEN, PackedTokens, widened
from softcache.soft.sequences import SoftSequences


def same_positions(parts: Sequence[SoftSequences]) -> list[SoftSequences]:
    """Return batches of the same B samples with one mask, lengths and tokens for all.

    A position is kept where every batch has an answer. A sample of which one batch knows nothing (no answer, so length
    0 and no tokens) keeps the length and the tokens that the others have. Raises AlignmentError naming samples whose
    lengths or tokens differ.
    """
    lengths = torch.stack([part.lengths for part in parts])
    longest = lengths.amax(0)
    _refuse("lengths", (lengths != longest) & (lengths > 0), parts)
    width = int(longest.max()) if len(longest) else 0
    mask = torch.stack([widened(part.mask, width, False) for part in parts]).all(0)
    tokens = _same_tokens(parts, width + 1) if parts[0].packed_tokens is not None else None
    return [_narrowed(part, mask, longest, tokens) for part in parts]


def _same_tokens(parts: Sequence[SoftSequences], width: int) -> PackedTokens:
    """Return the tokens of the samples, which are the same in every batch that has them."""
    each = torch.stack([widened(part.tokens, width, NO_TOKEN) for part in parts])
    tokens = each.amax(0)
    has_any = (each != NO_TOKEN).any(-1)
    _refuse("tokens", (each != tokens).any(-1) & has_any, parts)
    there = tokens != NO_TOKEN
    return tokens[there], there.sum(1)


def _narrowed(
    part: SoftSequences, mask: torch.Tensor, lengths: torch.Tensor, tokens: PackedTokens | None
) -> SoftSequences:
    """Return a batch with only the items where `mask` [B, L] is True."""
    kept, columns = mask[part.row, part.place], part.columns
    if not bool(kept.all()):
        columns = {name: column[kept] for name, column in columns.items()}
    return SoftSequences(
        decoder=part.decoder,
        columns=columns,
        mask=mask,
        keys=part.keys,
        lengths=lengths,
        packed_tokens=tokens,
    )


def _refuse(what: str, differ: torch.Tensor, parts: Sequence[SoftSequences]) -> None:
    """Raise AlignmentError if the samples differ in any batch: `differ` is bool [batches, B]."""
    samples = differ.any(0).cpu().numpy()
    if samples.any():
        names = name_some(parts[0].ids[samples].tolist())
        raise AlignmentError(
            f"the members have other {what} for the same samples: {counted(int(samples.sum()), 'sample')}, {names}; "
            "their teachers must see the same inputs, cut in the same way"
        )
