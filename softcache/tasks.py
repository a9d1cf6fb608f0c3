"""Tasks: what a target predicts, the shape of one row, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Any

from softcache.errors import FormatError, TaskError
from softcache.kinds import KINDS, Kind, Part

VALUE_KINDS = ("logits", "log_probs", "probs")
BOXES = ("xyxy", "xywh", "cxcywh", "relative_xyxy", "relative_xywh", "relative_cxcywh")
MAX_NUMBERS = 2**40
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class TaskSpec:
    """One task. Raises TaskError listing every contradiction between its attributes.

    Attributes:
        kind: a name in `softcache.kinds.KINDS`: `classification` (one of C classes), `multilabel` (any of C classes,
            each independently), `sequence` (one of C classes at each of a varying number of positions), `causal_lm` (a
            sequence of next tokens: position t answers token t + 1 of the row's tokens), `segmentation` (classes at
            each place of a map), `detection` (a varying number of boxes with classes), `regression` (numbers,
            optionally with their variance), `features` (a vector or map, which has no temperature).
        shape: the shape of one row's values; if rows are lists, of one item's. Classes come first: `(C,)` or
            `(C, H, W)`.
        value_kind: what the stored numbers are, one of `VALUE_KINDS`; None if the task has no classes.
        labels: the names of all classes of the label space, in order; or None.
        allow_masked: whether -Inf may appear, which marks a class that the teacher rules out.
        tokenizer: for causal_lm, the hash of the mapping between tokens and classes (docs/format.md, section 3.2).
        activation: what turns logits into probabilities, `softmax` or `sigmoid`; None if the task has no classes. It is
            filled in if the kind allows only one.
        parts: the names of the additional numbers that are stored beside the values: `boxes` and `scores` for
            detection, `variance` for regression.
        boxes: for detection, how boxes are given, one of `BOXES`: in pixels of the teacher's input, or relative to it.
        space: how many classes the whole label space has, if the teacher knows only some of them; otherwise None.
        known: which classes of that space the teacher knows, by number, in the order of the values; otherwise None.
        dustbin: whether one more value, the last, stands for all classes that the teacher does not know.
    """

    kind: str
    shape: tuple[int, ...]
    value_kind: str | None = None
    _: KW_ONLY
    labels: tuple[str, ...] | None = None
    allow_masked: bool = False
    tokenizer: str | None = None
    activation: str | None = None
    parts: tuple[str, ...] = ()
    boxes: str | None = None
    space: int | None = None
    known: tuple[int, ...] | None = None
    dustbin: bool = False

    def __post_init__(self) -> None:
        traits = KINDS.get(self.kind)
        if traits is not None and self.activation is None and len(traits.activations) == 1:
            object.__setattr__(self, "activation", traits.activations[0])
        problems = self.problems()
        if problems:
            raise TaskError("; ".join(problems))

    def problems(self) -> list[str]:
        """Return every contradiction between the attributes, one line each."""
        if self.kind not in KINDS:
            return [f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}"]
        return [*self._in_shape(), *self._in_traits(), *(self._in_classes() if self.traits.activations else [])]

    def _in_shape(self) -> Iterator[str]:
        if not self.shape or any(n < 1 for n in self.shape) or math.prod(self.shape) > MAX_NUMBERS:
            yield f"shape is {list(self.shape)}; expected sizes of at least 1, at most {MAX_NUMBERS:,} numbers"
        if len(self.shape) > MAX_DIMENSIONS:
            yield f"shape has {len(self.shape)} dimensions; at most {MAX_DIMENSIONS} can be stored"
        if self.traits.dimensions not in (None, len(self.shape)):
            yield f"{self.kind} needs a shape of {self.traits.dimensions} sizes, classes first, not {list(self.shape)}"

    def _in_traits(self) -> Iterator[str]:
        traits = self.traits
        if (self.tokenizer is not None) != traits.has_tokens:
            yield "causal_lm needs a tokenizer, and no other kind has one"
        known = {part.name for part in traits.parts}
        if not set(self.parts) <= known or len(set(self.parts)) != len(self.parts):
            yield f"parts are {', '.join(self.parts)}; {self.kind} can have {', '.join(sorted(known)) or 'none'}"
        yield from (f"{self.kind} needs {p.name}" for p in traits.parts if p.needed and p.name not in self.parts)
        if "boxes" in self.parts and self.boxes not in BOXES:
            yield f"boxes is {self.boxes!r}; expected one of {', '.join(BOXES)}: it is never guessed"
        if "boxes" not in self.parts and self.boxes is not None:
            yield f"boxes is only for tasks that have boxes; {self.kind} has none"
        classes = (self.value_kind, self.labels, self.activation, self.space, self.known)
        if not traits.activations and (any(x is not None for x in classes) or self.allow_masked or self.dustbin):
            yield f"{self.kind} has no value_kind, labels, activation, known classes or allow_masked"

    def _in_classes(self) -> Iterator[str]:
        if self.value_kind not in VALUE_KINDS:
            yield f"value_kind is {self.value_kind!r}; expected one of {', '.join(VALUE_KINDS)}: it is never guessed"
        if self.activation not in self.traits.activations:
            yield f"activation is {self.activation!r}; expected one of {', '.join(self.traits.activations)}"
        if self.activation == "sigmoid" and self.value_kind == "log_probs":
            yield "value_kind is log_probs; with sigmoid give logits or probs"
        if self.shape and self.shape[0] < 2 and self.activation == "softmax":
            yield f"{self.kind} needs at least 2 classes, not {self.shape[0]}"
        if self.labels is not None and len(self.labels) != self.label_space:
            yield f"{len(self.labels)} labels for {self.label_space} classes"
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            yield "labels repeat"
        if self.allow_masked and self.value_kind == "probs":
            yield "allow_masked is for -Inf; a ruled-out class has probability 0"
        yield from self._in_known()

    def _in_known(self) -> Iterator[str]:
        if self.known is None or self.space is None:
            if self.known is not None or self.space is not None or self.dustbin:
                yield "known, space and dustbin belong together: a teacher that knows only some of the classes"
            return
        if self.traits.has_tokens:
            yield f"{self.kind} cannot have known classes: its teachers know every token"
        if len(set(self.known)) != len(self.known) or not all(0 <= c < self.space for c in self.known):
            yield f"known classes are {list(self.known)!r:.80}; expected distinct numbers from 0 to {self.space - 1:,}"
        if self.shape and self.shape[0] != len(self.known) + self.dustbin:
            yield f"{self.shape[0]} values for {len(self.known)} known classes{' and a dustbin' * self.dustbin}"
        if self.dustbin and (self.activation != "softmax" or len(self.known) == self.space):
            yield "a dustbin needs softmax, and a teacher that does not know every class"

    @property
    def traits(self) -> Kind:
        """What all tasks of this kind have in common."""
        return KINDS[self.kind]

    @property
    def has_temperature(self) -> bool:
        """Whether a temperature means anything for this task."""
        return bool(self.traits.activations)

    @property
    def is_list(self) -> bool:
        """Whether a row has a varying number of items, each with values of `shape`."""
        return self.traits.layout == "list"

    @property
    def is_map(self) -> bool:
        """Whether a row has an item at each place of a map."""
        return self.traits.layout == "map"

    @property
    def label_space(self) -> int:
        """How many classes the label space has, including those that the teacher does not know."""
        return self.shape[0] if self.space is None else self.space

    @property
    def item(self) -> TaskSpec:
        """The task of one place of a map; the task itself if its rows are not maps."""
        if not self.is_map:
            return self
        kind = "classification" if self.activation == "softmax" else "multilabel"
        return replace(self, kind=kind, shape=self.shape[:1])

    @property
    def stored_parts(self) -> tuple[Part, ...]:
        """The additional numbers that are stored, in the kind's order."""
        return tuple(part for part in self.traits.parts if part.name in self.parts)

    def part_shape(self, part: Part) -> tuple[int, ...]:
        """Return the shape of a part of one item."""
        return self.shape if part.shape is None else part.shape

    def to_json(self) -> dict[str, Any]:
        """Return the task as a target's declaration holds it (docs/format.md, section 3)."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> TaskSpec:
        """Return the task that `to_json` described. Raises FormatError if `data` does not describe one."""
        try:
            return cls(
                kind=str(data["kind"]),
                shape=_integers(data["shape"]),
                value_kind=data["value_kind"],
                labels=None if data["labels"] is None else tuple(str(x) for x in data["labels"]),
                allow_masked=bool(data["allow_masked"]),
                tokenizer=data["tokenizer"],
                activation=data["activation"],
                parts=tuple(str(x) for x in data["parts"]),
                boxes=data["boxes"],
                space=None if data["space"] is None else _integers([data["space"]])[0],
                known=None if data["known"] is None else _integers(data["known"]),
                dustbin=bool(data["dustbin"]),
            )
        except (KeyError, TypeError, ValueError, TaskError) as e:
            raise FormatError(f"not a task: {e!r}") from e


def _integers(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(type(n) is int for n in given):
        raise TypeError(f"expected a list of integers, not {given!r:.100}")
    return tuple(given)
