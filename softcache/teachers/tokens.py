"""From a sample to token ids, and from served log-probabilities to the k highest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from softcache.arrays import Array
from softcache.teachers.adapter import Adapter


class TokenAdapter(Adapter):
    """Settings of a teacher that reads a column of `text` or of `input_ids`, cut to `max_length` tokens."""

    text: str | None = None
    input_ids: str | None = None
    max_length: int | None = Field(default=None, ge=2)
    add_special_tokens: bool = True

    @property
    def columns(self) -> list[str]:
        return [column for column in (self.text, self.input_ids) if column is not None]

    def declared(self) -> dict[str, Any]:
        """Return the settings that decide a sample's tokens. The tokenizer is declared separately."""
        return {
            "columns": self.columns,
            "max_length": self.max_length,
            "add_special_tokens": self.add_special_tokens,
        }

    def encode(self, sample: Mapping[str, Any], tokenizer: Any) -> Array:
        """Return all of a sample's token ids, int64 [n].

        Raises TypeError if the text column holds no text, ValueError if the ids are not a list of integers.
        """
        if self.text is None:
            return integers("tokens", sample[str(self.input_ids)])
        text = sample[self.text]
        if not isinstance(text, str):
            raise TypeError(f"column {self.text!r} is {type(text).__name__}; expected text")
        return integers("tokens", tokenizer(text, add_special_tokens=self.add_special_tokens)["input_ids"])

    def cut(self, tokens: Array, classes: int, longest: int | None = None) -> Array:
        """Return the first `max_length` tokens of a sample, int32.

        Raises ValueError if an id is not in 0 to `classes` - 1, or if more than `longest` tokens remain, the most that
        the model takes.
        """
        tokens = tokens[: self.max_length]
        if not 0 <= tokens.min() <= tokens.max() < classes:
            raise ValueError(f"token ids {tokens.tolist()!r:.80}; expected ids from 0 to {classes - 1:,}")
        if longest is not None and len(tokens) > longest:
            raise ValueError(
                f"{len(tokens):,} tokens; the model takes {longest:,} at most: set max_length, or shorten the sample"
            )
        return tokens.astype(np.int32)

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if (self.text is None) == (self.input_ids is None):
            raise ValueError("give text or input_ids (the column to read), and not both")
        return self


def highest(served: Mapping[int, float], k: int) -> list[list[float]]:
    """Return the ids and the log-probabilities of the k likeliest tokens. Raises ValueError if fewer are served."""
    found = sorted(served.items(), key=lambda item: -item[1])[:k]
    if len(found) < k:
        raise ValueError(f"serves {len(found)} log-probabilities, but k is {k}; lower k, or let the server return more")
    return [[float(i) for i, _ in found], [log_p for _, log_p in found]]


def integers(name: str, given: Any) -> Array:
    """Return a list of at least one integer as int64 [n]. Raises ValueError for anything else."""
    numbers = np.asarray(given)
    is_mask = numbers.dtype.kind == "b" and name != "tokens"
    if numbers.ndim != 1 or not len(numbers) or (numbers.dtype.kind not in "iu" and not is_mask):
        raise ValueError(f"{name}: expected a list of at least one integer, not {numbers.dtype} {list(numbers.shape)}")
    return numbers.astype(np.int64)
