"""Whether a student's sequences are the teacher's: the same tokens, the same frames; and frames at another rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from softcache.arrays import Array
from softcache.errors import AlignmentError, TaskError, counted, name_some
from softcache.soft.packing import NO_TOKEN, token_rows


def check_tokens(tokens: torch.Tensor, lengths: torch.Tensor, input_ids: Any, ids: Array) -> None:
    """Compare a student's token ids with those that the teacher saw.

    `tokens` [B, L + 1] are the teacher's, `lengths` [B] the numbers of positions, `ids` [B] the sample ids. Raises
    AlignmentError naming the samples whose tokens differ, or if `input_ids` are no integers [B, at least L].
    """
    given = token_rows(input_ids).to(tokens.device)
    positions = tokens.shape[1] - 1
    if given.ndim != 2 or len(given) != len(tokens) or given.shape[1] < positions:
        raise AlignmentError(
            f"input_ids are {list(given.shape)}; expected [{len(tokens)}, {positions}] or longer, padded"
        )
    width = min(given.shape[1], tokens.shape[1])
    # No answer depends on the token after the last position.
    ours = torch.arange(width, device=tokens.device) < lengths[:, None]
    theirs = tokens[:, :width]
    wrong = (ours & (given[:, :width] != theirs) & (theirs != NO_TOKEN)).any(1).cpu().numpy()
    if wrong.any():
        raise AlignmentError(
            f"not the token ids that the teacher saw: {counted(int(wrong.sum()), 'sample')}, "
            f"{name_some(ids[wrong].tolist())}; tokenise them as the teacher's tokenizer does, and pad on the right, "
            "or build for these"
        )


def check_frames(
    shape: Sequence[int], longest: int, theirs: torch.Tensor, answered: torch.Tensor, ids: Array, lengths: Any
) -> None:
    """Refuse a student that answers `shape` positions at another frame rate than the teacher, whose lengths are [B].

    `lengths` are the student's, int64 [B]; None if it gave none. Raises TaskError for a width that is not `longest`, or
    AlignmentError naming the samples whose lengths differ.
    """
    if lengths is None:
        if len(shape) == 2 and shape[1] != longest:
            raise TaskError(
                f"the student has {shape[1]} positions and the longest sequence {longest}. If it has another frame "
                "rate, use soft.resample(lengths); if it is only padded further, give lengths="
            )
        return
    ours = read_lengths(lengths, len(theirs)).to(theirs.device)
    wrong = (answered & (ours != theirs)).cpu()
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0, 0])
        raise AlignmentError(
            f"{counted(int(wrong.sum()), 'sequence')} of other lengths than the teacher's, samples "
            f"{name_some(ids[wrong.numpy()].tolist())}: the first has {int(ours[first])} positions and the teacher "
            f"{int(theirs[first])}; use soft.resample(lengths) if the student has another frame rate"
        )


def read_lengths(lengths: Any, count: int) -> torch.Tensor:
    """Return numbers of positions as int64 [count]. Raises TaskError for anything but integers of at least 0."""
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as e:
        raise TaskError(f"lengths are not integers [{count}]: {e}") from e
    if found.shape != (count,) or found.is_floating_point() or bool((found < 0).any()):
        raise TaskError(f"lengths are {found.dtype} {list(found.shape)}; expected integers of at least 0 [{count}]")
    return found.long()


def nearest_frames(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """Return which of a teacher's frames lies at the middle of each of a student's, int64 [B, longest of `ours`].

    Both have the same time for a sequence, in `theirs` and `ours` frames, int64 [B]. It is -1 past a sequence's end.
    """
    frames = torch.arange(int(ours.max()) if len(ours) else 0, device=theirs.device)
    # Integers, so that no rounding decides: (t + 1/2) * theirs / ours.
    nearest = (2 * frames + 1) * theirs[:, None] // (2 * ours[:, None]).clamp(min=1)
    return torch.where((frames < ours[:, None]) & (theirs[:, None] > 0), nearest, -1)
