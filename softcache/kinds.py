"""The kinds of tasks: how a row is laid out, and what a temperature does to it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Activation = Literal["softmax", "sigmoid"]
Layout = Literal["row", "map", "list"]


@dataclass(frozen=True)
class Part:
    """Further numbers that an item has beside its values, float32.

    Attributes:
        name: its name, and its column's.
        shape: their shape; None for that of the task.
        needed: whether every target of the kind has them.
        positive: whether they must be above 0.
    """

    name: str
    shape: tuple[int, ...] | None
    needed: bool = False
    positive: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        layout: what a row is: one item (`row`), an item at each place of a grid (`map`), or a varying number of items
            (`list`).
        activations: what may turn an item's logits into probabilities: `softmax` (one of the classes) or `sigmoid`
            (each class by itself). None of them: the numbers have no temperature.
        dimensions: how many a task's shape has; None for any number.
        parts: further numbers of an item.
        has_tokens: whether rows are a language model's answers to token ids.
        is_intermediate: whether the numbers come from inside the teacher, and not from its output.
    """

    layout: Layout
    activations: tuple[Activation, ...] = ()
    _: KW_ONLY
    dimensions: int | None = None
    parts: tuple[Part, ...] = ()
    has_tokens: bool = False
    is_intermediate: bool = False

    @property
    def has_label(self) -> bool:
        """Whether a row has one right class, so that answers can be compared with labels."""
        return self.layout == "row" and self.activations == ("softmax",)


KINDS: dict[str, Kind] = {
    "classification": Kind("row", ("softmax",), dimensions=1),
    "multilabel": Kind("row", ("sigmoid",), dimensions=1),
    "sequence": Kind("list", ("softmax",), dimensions=1),
    "causal_lm": Kind("list", ("softmax",), dimensions=1, has_tokens=True),
    "segmentation": Kind("map", ("softmax", "sigmoid"), dimensions=3),
    "detection": Kind(
        "list", ("softmax", "sigmoid"), dimensions=1, parts=(Part("boxes", (4,), needed=True), Part("scores", ()))
    ),
    "regression": Kind("row", parts=(Part("variance", None, positive=True),)),
    "features": Kind("row", is_intermediate=True),
}
