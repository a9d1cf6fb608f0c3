"""From a sample to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def token_ids(
    sample: Mapping[str, Any], text: str | None, input_ids: str | None, tokenizer: Any, add_special_tokens: bool
) -> Array:
    """Return a sample's token ids, int64, from its column of text or of token ids.

    Raises TypeError or ValueError for what is neither.
    """
    if text is None:
        return integers("tokens", sample[str(input_ids)])
    if not isinstance(sample[text], str):
        raise TypeError(f"column {text!r} is {type(sample[text]).__name__}; expected text")
    return integers("tokens", tokenizer(sample[text], add_special_tokens=add_special_tokens)["input_ids"])


def highest(served: Mapping[int, float], k: int) -> list[list[float]]:
    """Return the ids and the log-probabilities of the k likeliest tokens. Raises ValueError where there are fewer."""
    found = sorted(served.items(), key=lambda item: -item[1])[:k]
    if len(found) < k:
        raise ValueError(f"serves {len(found)} log-probabilities; k is {k}")
    return [[float(i) for i, _ in found], [log_p for _, log_p in found]]


def integers(name: str, given: Any) -> Array:
    """Return a list of integers, at least one, as int64 [n]. Raises ValueError for anything else."""
    numbers = np.asarray(given)
    is_mask = numbers.dtype.kind == "b" and name != "tokens"
    if numbers.ndim != 1 or not len(numbers) or (numbers.dtype.kind not in "iu" and not is_mask):
        raise ValueError(f"{name}: expected a list of at least one integer, not {numbers.dtype} {list(numbers.shape)}")
    return numbers.astype(np.int64)
