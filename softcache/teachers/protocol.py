"""What a teacher is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from softcache.errors import TeacherError


@dataclass(frozen=True)
class Fingerprint:
    """What decides a teacher's answers, as declared: when any of it changes, it is another teacher.

    Attributes:
        adapter: the adapter's name.
        config: everything else that decides the answers: callables by name, their arguments, preprocessing.
        weights: SHA-256 of each weights file; where they lie and what they are called does not count.
        sources: SHA-256 of each source file that counts, by name.
    """

    adapter: str
    config: dict[str, Any]
    weights: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as in a target's declaration (docs/format.md, section 3)."""
        return asdict(self) | {"weights": list(self.weights)}


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch's answers of varying length, worked out while they are taken, so that they never exist as a whole.

    Attributes:
        lengths: how many positions each sample has that are to be stored [B].
        chunks: pairs of places (int64 [n], counted through all samples' positions) and their values [n, C], in any
            order, each place once.
        tokens: of a causal language model, each sample's token ids `[B][L]`.
        positions: likewise, the numbers of the stored positions of each sample, ascending: position t answers token
            t + 1, so that L tokens have L - 1 of them.
        parts: further numbers of each position by name, for each sample `[B][length, ...]`, such as `boxes` [n, 4].
    """

    lengths: Sequence[int]
    chunks: Iterable[tuple[Any, torch.Tensor]]
    _: KW_ONLY
    tokens: Sequence[Any] | None = None
    positions: Sequence[Any] | None = None
    parts: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(int(length) != length or length < 0 for length in self.lengths):
            raise ValueError(f"lengths {list(self.lengths)!r:.100}; expected integers from 0")

    @classmethod
    def from_padded(cls, values: torch.Tensor, lengths: Sequence[int]) -> Sequences:
        """Return the answers that are the first `lengths` [B] positions of `values` [B, L, C].

        Raises ValueError for lengths that `values` does not have.
        """
        if len(lengths) != len(values) or max(map(int, lengths), default=0) > values.shape[1]:
            raise ValueError(f"lengths {list(lengths)!r:.100} of values {list(values.shape)}")
        there = torch.arange(values.shape[1]) < torch.as_tensor(lengths)[:, None]
        return cls([int(n) for n in lengths], [(np.arange(int(there.sum())), values[there.to(values.device)])])

    @classmethod
    def from_lists(cls, values: Sequence[torch.Tensor], **parts: Sequence[Any]) -> Sequences:
        """Return the answers of samples with so many items each as `values` (`[B][n, C]`) have, and their parts."""
        places = np.arange(sum(map(len, values)))
        return cls([len(v) for v in values], [(places, torch.cat(list(values)))] if len(places) else [], parts=parts)


class Teacher(Protocol):
    """A frozen model, loaded and ready."""

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        """Turn decoded samples into one batch.

        May raise anything for a bad sample; it is then tried alone and named.
        """

    def predict(self, batch: Any) -> Mapping[str, Any]:
        """Answer a batch: by output name tensors [B, ...] or `Sequences`; an unnamed output is called `output`.

        Where a task has further numbers, such as a variance, its output is a mapping of `values` and these; `Sequences`
        have `parts`.
        """

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and perhaps `bias` [C] of the linear layer that makes the logits.

        Raises TeacherError where there is none. Only targets that store hidden states ask for it.
        """


class NoOutputLayer:
    """Of teachers whose last layer is not to be had."""

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Raise TeacherError."""
        raise TeacherError("this teacher's last layer cannot be had; store logits, not hidden states")
