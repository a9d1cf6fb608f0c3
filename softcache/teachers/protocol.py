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
    """What decides a teacher's answers, as the teacher declares it. If any of it changes, it is another teacher.

    Attributes:
        adapter: the adapter's name.
        config: everything else that decides the answers: callables by name, their arguments, preprocessing.
        weights: SHA-256 of each weights file. The files' names and locations do not count.
        sources: SHA-256 of each source file that decides the answers, by name.
    """

    adapter: str
    config: dict[str, Any]
    weights: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as a target's declaration holds it (docs/format.md, section 3)."""
        return asdict(self) | {"weights": list(self.weights)}


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch of answers whose lengths vary. Values are computed as they are read, so they never all exist at once.

    Raises ValueError if a length is negative or not an integer.

    Attributes:
        lengths: the number of positions to store for each sample [B].
        chunks: pairs of places, int64 [n], and the values at those places [n, C]. A place is an index into the
            positions of all samples, one sample after another. The order is free; each place appears exactly once.
        tokens: for a causal language model, each sample's token ids `[B][L]`.
        positions: for a causal language model, each sample's stored positions in ascending order. Position t answers
            token t + 1, so L tokens have L - 1 positions.
        parts: other numbers for each position, by name, for each sample `[B][length, ...]`, such as `boxes` [n, 4].
    """

    lengths: Sequence[int]
    chunks: Iterable[tuple[Any, torch.Tensor]]
    _: KW_ONLY
    tokens: Sequence[Any] | None = None
    positions: Sequence[Any] | None = None
    parts: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(int(length) != length or length < 0 for length in self.lengths):
            raise ValueError(f"lengths {list(self.lengths)!r:.100}; expected integers of at least 0")

    @classmethod
    def from_padded(cls, values: torch.Tensor, lengths: Sequence[int]) -> Sequences:
        """Return answers that hold each sample's first `lengths` [B] positions of `values` [B, L, C].

        Raises ValueError if `lengths` does not fit `values`.
        """
        if len(lengths) != len(values) or max(map(int, lengths), default=0) > values.shape[1]:
            raise ValueError(
                f"lengths {list(lengths)!r:.100} do not fit values of shape {list(values.shape)}; expected one "
                "length for each sample, at most its number of positions"
            )
        inside = torch.arange(values.shape[1]) < torch.as_tensor(lengths)[:, None]
        return cls([int(n) for n in lengths], [(np.arange(int(inside.sum())), values[inside.to(values.device)])])

    @classmethod
    def from_lists(cls, values: Sequence[torch.Tensor], **parts: Sequence[Any]) -> Sequences:
        """Return answers from a list with each sample's items, `values` (`[B][n, C]`), and the items' parts."""
        places = np.arange(sum(map(len, values)))
        return cls([len(v) for v in values], [(places, torch.cat(list(values)))] if len(places) else [], parts=parts)


class Teacher(Protocol):
    """A frozen model that is loaded and ready to answer."""

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        """Turn decoded samples into one batch.

        May raise anything for a bad sample. Each sample is then tried separately, and the bad ones are named.
        """

    def predict(self, batch: Any) -> Mapping[str, Any]:
        """Return a batch's answers, by output name: tensors [B, ...] or `Sequences`.

        An output without a name is called `output`. If a task has other numbers beside its values, such as a variance,
        its output is a mapping of `values` and those numbers; in `Sequences` they are `parts`.
        """

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and, if it has one, `bias` [C] of the linear layer that computes the logits.

        Raises TeacherError if there is no such layer. It is needed only for targets that store hidden states.
        """


class NoOutputLayer:
    """For teachers whose last layer is not available."""

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Raise TeacherError."""
        raise TeacherError("this teacher's last layer is not available; store logits, not hidden states")
