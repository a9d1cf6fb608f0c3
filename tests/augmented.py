"""Transforms of every form, the builds that use them, and the views that they must give."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from conftest import Workshop

TRANSFORMS = '''
import pathlib, random
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def noisy(x, scale=1.0):
    """Draws from all three global generators."""
    drawn = np.array([random.random(), np.random.rand(), torch.rand(()).item(), np.random.rand()])
    return (np.asarray(x) + scale * drawn).astype(np.float32)


def one_more_draw(x):
    random.random()
    return noisy(x)


def given_rng(x, rng):
    return (np.asarray(x) + rng.random(4)).astype(np.float32)


def whole(sample):
    return {"x": noisy(sample["x"])}


class Scale:
    """Draws parameters: by how much, and which way round."""

    def __init__(self, most=2.0):
        self.most = most

    def draw(self, x, rng):
        return {"by": rng.uniform(1, self.most), "mirrored": bool(rng.random() < 0.5)}

    def apply(self, x, by, mirrored):
        x = np.asarray(x, np.float32) * np.float32(by)
        return x[::-1].copy() if mirrored else x


class Mix:
    def draw(self, x, rng):
        return {"weight": np.float64(rng.beta(1, 1))}

    def apply(self, x, weight, partner):
        return (weight * np.asarray(x) + (1 - weight) * np.asarray(partner)).astype(np.float32)


class OwnGenerator:
    """Seeded as albumentations transforms are."""

    def set_random_seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *, image):
        return {"image": (np.asarray(image) + self.generator.random(4)).astype(np.float32)}


STRAY = np.random.default_rng(0)


def beside_rng(x, rng):
    return noisy(x + rng.random())


def stray(x):
    return (np.asarray(x) + STRAY.random(4)).astype(np.float32)


def from_a_file(x):
    return noisy(x) + np.float32((HERE / "shift").read_text())


def number(sample):
    return 1.0


def picky(x):
    if x[0] > float((HERE / "most").read_text()):
        raise ValueError("too large to augment")
    return noisy(x)


class Odd:
    def draw(self, x, rng):
        return {"what": object()}

    def apply(self, x, what):
        return x
'''
Augmented = Callable[..., "Workshop"]


class Students:
    """A student's dataset: the workshop's samples, perhaps in another order."""

    def __init__(self, workshop: Workshop, order: list[int] | None = None, *, as_tuples: bool = False) -> None:
        made = json.loads((workshop.folder / "samples.json").read_text())
        self.ids, self.x = made["id"], np.array(made["x"], np.float32).reshape(-1, 4)
        self.order = list(range(len(self.ids))) if order is None else order
        self.as_tuples = as_tuples

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Any:
        i = self.order[place]
        return (self.x[i], self.ids[i]) if self.as_tuples else {"x": self.x[i], "id": self.ids[i]}


def answers(workshop: Workshop, x: Any) -> torch.Tensor:
    """Return the live teacher's answers to views, float32."""
    return workshop.answers("cls", x).float()


def expected(x: np.ndarray, sample_id: int, view: int, seed: int = 0) -> np.ndarray:
    """Return the view that `noisy` gives, computed from docs/format.md only."""
    digest = hashlib.sha256(struct.pack("<q", seed) + b"i" + struct.pack("<q", sample_id) + struct.pack("<i", view))
    number = int.from_bytes(digest.digest()[:8], "little")
    python, numpy = random.Random(number), np.random.RandomState([number % 2**32, number // 2**32])
    pytorch = torch.Generator().manual_seed(number)
    first, second, third = python.random(), numpy.rand(), torch.rand((), generator=pytorch).item()
    drawn = np.array([first, second, third, numpy.rand()])
    return (x + drawn).astype(np.float32)
