"""Fashion-MNIST (or MNIST) from its four IDX files, and the transform that makes views of its images."""

import gzip
from pathlib import Path

import numpy as np
import torch

PAD, HOLE = 2, 8


def read(folder, which):
    """Return the images, uint8 [n, 28, 28], and labels, uint8 [n], of `train` or `t10k`.

    Raises FileNotFoundError if the folder lacks one of the files.
    """
    folder = Path(__file__).parent / folder
    try:
        images = gzip.decompress((folder / f"{which}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{which}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{e.filename}: give the folder with the four IDX files (README.md)") from e
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def samples(folder, count):
    """Return the first `count` training images. Columns: `index`, `image` (uint8 [28, 28]), `label`."""
    images, labels = read(folder, "train")
    return {"index": np.arange(count), "image": images[:count], "label": labels[:count].astype(np.int64)}


def augment(image, rng):
    """Return an image shifted by up to two pixels, mirrored half the time, with a blank square half the time."""
    top, left = rng.integers(2 * PAD + 1, size=2)
    view = np.pad(image, PAD)[top : top + 28, left : left + 28][:, :: rng.choice([1, -1])].copy()
    if rng.random() < 0.5:
        y, x = rng.integers(28 - HOLE + 1, size=2)
        view[y : y + HOLE, x : x + HOLE] = 0
    return view


def tensor(view):
    """Return the models' input for a view, float32 [1, 28, 28]."""
    return torch.tensor(np.asarray(view, np.float32))[None] / 128 - 0.5


def preprocess(sample):
    """Return the teacher's input for a sample, float32 [1, 28, 28]."""
    return tensor(sample["image"])
