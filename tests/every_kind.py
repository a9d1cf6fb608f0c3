"""A recipe with a task of every kind, and what its model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import Workshop

MODEL = """
import torch
from torch import nn
from softcache.teachers import Sequences


class Many(nn.Module):
    def __init__(self, **changes):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 512)
        self.changes = changes

    def forward(self, x):
        h = self.out(x) * 4
        tags, maps, mask = h[:, :7], h[:, 8:8 + 5 * 12].view(-1, 5, 3, 4), h[:, 80:80 + 12].view(-1, 1, 3, 4).sigmoid()
        depth = {"values": h[:, 100:103], "variance": h[:, 103:106].exp()}
        counts = [int(abs(v) * 10) % 4 for v in x[:, 0].tolist()]
        logits = [h[i, 200:200 + 6 * n].view(n, 6) for i, n in enumerate(counts)]
        boxes = [h[i, 300:300 + 4 * n].view(n, 4).sigmoid() for i, n in enumerate(counts)]
        scores = [values.softmax(1).amax(1) for values in logits]
        found = {
            "tags": tags, "tagprobs": tags.sigmoid(), "maps": maps, "mask": mask, "depth": depth,
            "mean": h[:, 100:103], "objects": Sequences.from_lists(logits, boxes=boxes, scores=scores),
            "expert": h[:, 110:114], "some": h[:, 110:113],
        }
        return found | {name: eval(text, {"torch": torch, "h": h, "found": found, "Sequences": Sequences})
                        for name, text in self.changes.items()}


def preprocess(sample):
    return torch.tensor(sample["x"], dtype=torch.float32)
"""
LABELS = ["cat", "dog", "cow", "hen", "bee", "ant"]
DENSE = {"dtype": "float32"}
TASKS: dict[str, dict[str, Any]] = {
    "tags": {"kind": "multilabel", "classes": 7, "value_kind": "logits", "store": DENSE},
    "tagprobs": {"kind": "multilabel", "classes": 7, "value_kind": "probs", "store": DENSE},
    "tags8": {
        "kind": "multilabel", "classes": 7, "value_kind": "logits", "output": "tags", "store": {"codec": "quantized"},
    },
    "maps": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "store": {"format": "zarr", **DENSE},
    },
    "maps2": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "output": "maps", "store": {"format": "zarr", "codec": "topk", "k": 2},
    },
    "maps8": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "output": "maps", "store": {"codec": "quantized"},
    },
    "mask": {
        "kind": "segmentation", "classes": 1, "size": [3, 4], "value_kind": "probs", "activation": "sigmoid",
        "store": {"format": "zarr", **DENSE},
    },
    "depth": {"kind": "regression", "shape": [3], "parts": ["variance"], "store": DENSE},
    "mean": {"kind": "regression", "shape": [3]},
    "objects": {
        "kind": "detection", "labels": LABELS, "value_kind": "logits", "activation": "softmax", "parts": ["scores"],
        "boxes": "relative_cxcywh", "store": DENSE,
    },
    "expert": {
        "kind": "classification", "labels": LABELS, "value_kind": "logits", "knows": {"t": ["cow", "ant", 3]},
        "dustbin": ["t"], "store": DENSE,
    },
    "some": {
        "kind": "classification", "labels": LABELS, "value_kind": "logits", "knows": {"t": [2, 5, 3]}, "store": DENSE,
    },
}  # fmt: skip
ROWS = 24
T = 3.0
ORDER = np.random.default_rng(1).permutation(ROWS)


class Kinds(Workshop):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.write("model.py", MODEL)
        self.samples(ROWS)
        self.recipe["teachers"]["t"] = {"model": "model:Many", "preprocess": "model:preprocess", "reads": ["x"]}
        self.recipe["tasks"] = {name: task | {"teachers": ["t"]} for name, task in TASKS.items()}

    def outputs(self) -> dict[str, Any]:
        """What the model answers, without softcache."""
        scope: dict[str, Any] = {}
        exec(MODEL, scope)
        with torch.inference_mode():
            x = torch.from_numpy(np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32))
            return scope["Many"]()(x)  # type: ignore[no-any-return]
