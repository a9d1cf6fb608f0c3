"""The images as the recipe's models want them."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from mnist import FASHION, read


def part(path, which):
    """Return the images, uint8 [n, 28, 28], and labels, int64 [n], of `train`, `held out` or `test`.

    The last sixth of the training images is held out, to evaluate teachers.
    """
    images, labels = read(path, "test" if which == "test" else "train")
    if which == "test":
        return images, labels
    trained = len(labels) * 5 // 6
    chosen = slice(trained) if which == "train" else slice(trained, None)
    return images[chosen], labels[chosen]


def samples(path=FASHION, which="train"):
    """Return the images of a part. Columns: `index`, `image` (uint8 [28, 28]), `label`."""
    images, labels = part(path, which)
    return {"index": np.arange(len(labels)), "image": images, "label": labels}


def tensors(path, which):
    """Return the models' inputs for a part, float32 [n, 28, 28], and its labels, int64 [n]."""
    images, labels = part(path, which)
    return torch.tensor(images).float() / 255, torch.tensor(labels)


def preprocess(sample):
    """Return the models' input for a sample, float32 [28, 28]."""
    return np.asarray(sample["image"], np.float32) / 255
