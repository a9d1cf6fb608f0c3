"""The kinds of tasks: how a row is laid out, and what a temperature does to it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

Activation = Literal["softmax", "sigmoid"]
Layout = Literal["row", "map", "list"]


@dataclass(frozen=True)
class Part:
    """Additional float32 numbers that an item has beside its values, such as the corners of a box.

    Attributes:
        name: the part's name, which is also its column's.
        shape: the shape of one item's numbers; None if it is the task's shape.
        needed: whether every target of the kind has this part.
        positive: whether the numbers must be above 0.
    """

    name: str
    shape: tuple[int, ...] | None
    needed: bool = False
    positive: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        layout: what a row is: one item (`row`), one item at each place of a grid (`map`), or a varying number of items
            (`list`).
        activations: what may turn an item's logits into probabilities: `softmax` (exactly one class is right) or
            `sigmoid` (each class independently). Empty if the numbers have no temperature.
        dimensions: how many dimensions a task's shape has; None if it may have any number.
        parts: the additional numbers that an item can have.
        has_tokens: whether rows are a language model's answers to token ids.
        is_intermediate: whether the numbers come from inside the teacher rather than from its output.
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
        """Whether each row has one right class, so that answers can be compared with labels."""
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
