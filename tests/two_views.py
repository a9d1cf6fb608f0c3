"""A recipe that trains on two views of each sample, and transforms that misbehave in one way each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from conftest import Workshop

AUGMENT = """
import pathlib, random, time
import numpy as np
import torch

COUNT = [0]


def noisy(x):
    return (np.asarray(x) + random.random()).astype(np.float32)


def drifting(x):
    COUNT[0] += 1
    return noisy(x) + np.float32(COUNT[0] > 56)


def slow(x):
    a = torch.rand(4)
    time.sleep(0.002)
    return (torch.as_tensor(np.array(x)) + a + torch.rand(4)).numpy()


def shifted(x):
    return noisy(x) + np.float32((pathlib.Path(__file__).parent / "shift").read_text())


def with_rng(x, rng):
    return (np.asarray(x) + rng.random()).astype(np.float32)


def sometimes(sample, rng):
    return {} if rng.random() < 0.5 else {"x": np.asarray(sample["x"]) * 2}


def picky(x):
    if x[1] > 500:
        raise ValueError("too large")
    return noisy(x)


class Mix:
    def draw(self, x, rng):
        return {"weight": float(rng.random())}

    def apply(self, x, weight, partner):
        return (weight * np.asarray(x) + (1 - weight) * np.asarray(partner)).astype(np.float32)


class Picky(Mix):
    def apply(self, x, weight, partner):
        if x[1] > 500:
            raise ValueError("too large")
        return super().apply(x, weight, partner)
"""


def with_two_views(workshop: Workshop) -> Workshop:
    """Give the workshop's recipe an augmentation, and a single target."""
    workshop.write("augment.py", AUGMENT)
    del workshop.recipe["tasks"]["feat"]
    workshop.recipe["augmentation"] = {"transform": "augment:noisy", "column": "x", "views": 2}
    return workshop


def transform(name: str) -> Any:
    """Return a transform as a student's code has it."""
    scope: dict[str, Any] = {}
    exec(AUGMENT, scope)
    return scope[name]


def students(shop: Workshop) -> list[dict[str, Any]]:
    """Return the samples as a student's dataset has them."""
    made = json.loads((shop.folder / "samples.json").read_text())
    rows = np.array(made["x"], np.float32).reshape(-1, 4)
    return [{"id": i, "x": x} for i, x in zip(made["id"], rows, strict=True)]
