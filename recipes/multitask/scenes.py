"""Scenes: a real digit on a larger canvas, turned, scaled and shifted, among scraps of other digits.

Each scene has four labels: which digit, its mask, its box, and by how much it is turned.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample, max_pool2d

sys.path.insert(0, str(Path(__file__).parents[1]))
from mnist import HUB, read

COUNT, TESTS = 24_000, 3_000
CANVAS, MASK, SCRAPS, SCRAP = 48, 24, 5, 11  # pixels; scraps, and their size
STEEPEST, SCALES = 60.0, (0.7, 1.3)  # degrees; of the 28 pixels
INK = 0.3
RARER = 0.8  # each digit is 0.8 times as frequent as the one before it: 0 is frequent, 9 is rare


@cache
def scenes(path, which, count, seed):
    """Return what `draw` returns, which is drawn once."""
    return draw(path, which, count, seed)


def draw(path, which, count, seed):
    """Return random scenes and their labels, by name.

    - image: uint8 [n, 48, 48]
    - digit: int64 [n]. Training scenes are out of balance, test scenes are not
    - mask: float32 [n, 1, 24, 24], 0 or 1
    - box: float32 [n, 4], x1, y1, x2, y2 as shares of the canvas
    - angle: float32 [n, 2], its cosine and sine; a digit that is turned clockwise has a positive one
    - covered: float32 [n], the share of the digit that scraps lie on
    """
    images, labels = read(path, which)
    images, labels = torch.tensor(images).float() / 255, torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    chances = (RARER if which == "train" else 1.0) ** labels.double() / labels.bincount(minlength=10)[labels]
    chosen = torch.multinomial(chances, count, replacement=True, generator=generator)
    degrees = (torch.rand(count, generator=generator) * 2 - 1) * STEEPEST
    turned = torch.deg2rad(degrees)
    scale = SCALES[0] + (SCALES[1] - SCALES[0]) * torch.rand(count, generator=generator)
    room = (CANVAS - 28 * scale) / CANVAS
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * room[:, None]
    ink = placed(images[chosen], turned, scale, shift)
    scraps = scattered(images, count, generator)
    noise = 0.08 * torch.randn(count, CANVAS, CANVAS, generator=generator)
    inside = ink > INK
    return {
        "image": ((torch.maximum(ink, scraps) + noise).clamp(0, 1) * 255).to(torch.uint8),
        "digit": labels[chosen],
        "mask": max_pool2d(inside[:, None].float(), CANVAS // MASK),
        "box": boxes(inside),
        "angle": torch.stack([turned.cos(), turned.sin()], 1),
        "covered": (inside & (scraps > INK)).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1),
    }


def placed(digits, turned, scale, shift):
    """Return digits [n, 28, 28] on canvases [n, 48, 48], turned (radians), scaled, shifted by half canvases."""
    zoom = CANVAS / (28 * scale)
    cos, sin = turned.cos() * zoom, turned.sin() * zoom
    linear = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    offset = -(linear @ shift[:, :, None])
    grid = affine_grid(torch.cat([linear, offset], 2), [len(digits), 1, CANVAS, CANVAS], align_corners=False)
    return grid_sample(digits[:, None], grid, align_corners=False)[:, 0]


def scattered(images, count, generator):
    """Return canvases [n, 48, 48] with scraps of random images at random places."""
    found = torch.zeros(count, CANVAS, CANVAS)
    places, side = torch.arange(count)[:, None, None], torch.arange(SCRAP)
    for _ in range(SCRAPS):
        chosen = torch.randint(len(images), (count,), generator=generator)
        source = torch.randint(28 - SCRAP + 1, (2, count, 1), generator=generator) + side
        target = torch.randint(CANVAS - SCRAP + 1, (2, count, 1), generator=generator) + side
        found[places, target[0][:, :, None], target[1][:, None]] = images[
            chosen[:, None, None], source[0][:, :, None], source[1][:, None]
        ]
    return found


def boxes(inside):
    """Return the boxes around what is inside, bool [n, 48, 48]: x1, y1, x2, y2 as shares of the canvas."""
    sides = []
    for along in (inside.any(1), inside.any(2)):
        first = along.int().argmax(1)
        last = CANVAS - along.flip(1).int().argmax(1)
        sides.append((first / CANVAS, last / CANVAS))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], 1)


def samples(path=HUB, count=COUNT):
    """Return training scenes. Columns: `index`, `image` (uint8 [48, 48]), `digit`, `covered`."""
    found = scenes(path, "train", count, 0)
    kept = {name: found[name].numpy() for name in ("image", "digit", "covered")}
    return {"index": np.arange(count), **kept}


def augment(image, rng):
    """Return a darker or brighter scene with more noise. No label changes."""
    view = image * rng.uniform(0.6, 1.2) + rng.normal(0, 15, image.shape) + rng.uniform(0, 40)
    return view.clip(0, 255).astype(np.uint8)


def tensor(view):
    """Return the models' input for a view, float32 [1, 48, 48]."""
    return torch.tensor(np.asarray(view, np.float32))[None] / 128 - 0.5


def preprocess(sample):
    """Return the teachers' input for a sample, float32 [1, 48, 48]."""
    return tensor(sample["image"])
