"""A teacher that answers with an expression: of `h` [B, 6], its last layer, and `x` [B, 4], the batch."""

from __future__ import annotations

from typing import Any

from conftest import Workshop

MODEL = """
import os, pathlib
import torch
from torch import nn
from softcache.teachers import Sequences

HERE = pathlib.Path(__file__).parent


class Answers(nn.Module):
    def __init__(self, answers="{}"):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.text = nn.Linear(4, 6), answers

    def forward(self, x):
        shift = float((HERE / "shift").read_text()) if (HERE / "shift").exists() else 0.0
        names = {"h": self.inner(x) * 3 + shift, "x": x, "torch": torch, "Sequences": Sequences, "self": self}
        return eval(self.text, names)

    def later(self, x):
        for i in range(len(x)):
            yield [i], self.inner(x[i:i + 1]) @ torch.eye(6)


def preprocess(sample):
    return torch.tensor(sample["x"])
"""
BOXES = "Sequences.from_lists([h[i:i+{n}] for i in range(len(h))], boxes=[torch.ones({n}, 4) * {size} for _ in h])"
DETECTION = {"kind": "detection", "classes": 6, "value_kind": "logits", "activation": "softmax", "boxes": "xyxy"}
CLASSES = {"kind": "classification", "classes": 6, "value_kind": "logits"}


def answered_by_expression(workshop: Workshop) -> Workshop:
    """Give the workshop a teacher that evaluates an expression for each batch; see `one`."""
    workshop.write("model.py", MODEL)
    workshop.recipe["teachers"]["t"] = {"model": "model:Answers", "preprocess": "model:preprocess", "reads": ["x"]}
    return workshop


def one(shop: Workshop, answers: str, task: dict[str, Any], **teacher: Any) -> Workshop:
    """Give the workshop a single task `a`, answered by an expression; `teacher` adds settings of the teacher."""
    shop.recipe["teachers"]["t"] |= {"arguments": {"answers": answers}} | teacher
    shop.recipe["tasks"] = {"a": {"store": {"dtype": "float32"}} | task | {"teachers": ["t"]}}
    return shop
