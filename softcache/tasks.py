"""What a target predicts: its kind, the shape of one row, and what its numbers mean."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from softcache.errors import FormatError, TaskError

KINDS = ("classification", "features", "sequence", "causal_lm")
SEQUENCES = ("sequence", "causal_lm")
VALUE_KINDS = ("logits", "log_probs", "probs")
MAX_NUMBERS = 2**40
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        kind: `classification` (one distribution over C classes), `features` (a vector or map without temperature),
            `sequence` (a distribution at each of a varying number of positions) or `causal_lm` (the same, position t
            answering token t + 1 of a row's tokens).
        shape: shape of one row, of sequences that of one position; `(C,)` where there are classes.
        value_kind: what the stored numbers are, one of `VALUE_KINDS`; None for features.
        labels: names of the classes in the order of the values, or None.
        allow_masked: whether -Inf may appear (a class that the teacher rules out).
        tokenizer: of causal_lm, the hash of the mapping between tokens and classes (docs/format.md, section 3.1).
    """

    kind: str
    shape: tuple[int, ...]
    value_kind: str | None = None
    labels: tuple[str, ...] | None = None
    allow_masked: bool = False
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise TaskError("; ".join(problems))

    def problems(self) -> list[str]:
        """Return everything that contradicts itself, one line each."""
        found = []
        if self.kind not in KINDS:
            found.append(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not self.shape or any(n < 1 for n in self.shape) or math.prod(self.shape) > MAX_NUMBERS:
            found.append(f"shape is {list(self.shape)}; expected sizes of at least 1, at most {MAX_NUMBERS:,} numbers")
        if len(self.shape) > MAX_DIMENSIONS:
            found.append(f"shape has {len(self.shape)} dimensions; at most {MAX_DIMENSIONS} can be stored")
        if (self.tokenizer is not None) != (self.kind == "causal_lm"):
            found.append("a tokenizer belongs to causal_lm, and to nothing else")
        if self.kind == "features":
            if self.value_kind is not None or self.labels is not None or self.allow_masked:
                found.append("features have no value_kind, labels or allow_masked")
            return found
        if self.value_kind not in VALUE_KINDS:
            found.append(
                f"value_kind is {self.value_kind!r}; expected one of {', '.join(VALUE_KINDS)}: it is never guessed"
            )
        if len(self.shape) != 1 or self.shape[0] < 2:
            found.append(f"{self.kind} needs one size of at least 2, not {list(self.shape)}")
        if self.labels is not None and len(self.labels) != self.shape[0]:
            found.append(f"{len(self.labels)} labels for {self.shape[0]} classes")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            found.append("labels repeat")
        if self.allow_masked and self.value_kind == "probs":
            found.append("allow_masked is for -Inf; a ruled-out class has probability 0")
        return found

    @property
    def has_temperature(self) -> bool:
        """Whether a temperature means anything for this task."""
        return self.kind != "features"

    @property
    def is_sequence(self) -> bool:
        """Whether a row has a varying number of positions, each with values of `shape`."""
        return self.kind in SEQUENCES

    def to_json(self) -> dict[str, Any]:
        """Return the task as in a target's declaration (docs/format.md, section 3)."""
        return asdict(self) | {"shape": list(self.shape), "labels": None if self.labels is None else list(self.labels)}

    @classmethod
    def from_json(cls, data: Any) -> TaskSpec:
        """Read back `to_json`. Raises FormatError for anything else."""
        try:
            labels, shape = data["labels"], data["shape"]
            if not isinstance(shape, list) or not all(type(n) is int for n in shape):
                raise TypeError(f"shape is {shape!r:.100}")
            return cls(
                kind=str(data["kind"]),
                shape=tuple(shape),
                value_kind=data["value_kind"],
                labels=None if labels is None else tuple(str(x) for x in labels),
                allow_masked=bool(data["allow_masked"]),
                tokenizer=data["tokenizer"],
            )
        except (KeyError, TypeError, ValueError, TaskError) as e:
            raise FormatError(f"not a task: {e!r}") from e
