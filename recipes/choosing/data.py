"""The images as the recipe's models want them."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from mnist import FASHION, read


def samples(path=FASHION, which="train"):
    """Return the images of `train` or `test`. Columns: `index`, `image` (uint8 [28, 28]), `label`."""
    images, labels = read(path, which)
    return {"index": np.arange(len(labels)), "image": images, "label": labels}


def tensors(path, which):
    """Return the models' inputs, float32 [n, 28, 28], and labels, int64 [n]."""
    images, labels = read(path, which)
    return torch.tensor(images).float() / 255, torch.tensor(labels)


def preprocess(sample):
    """Return the models' input for a sample, float32 [28, 28]."""
    return np.asarray(sample["image"], np.float32) / 255
