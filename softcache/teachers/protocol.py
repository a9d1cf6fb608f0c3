"""What a teacher is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch


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


class Teacher(Protocol):
    """A frozen model, loaded and ready."""

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        """Turn decoded samples into one batch.

        May raise anything for a bad sample; it is then tried alone and named.
        """

    def predict(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Answer a batch: tensors [B, ...] by output name; a single unnamed output is called `output`."""
