"""The images as the recipe's models want them."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from mnist import HUB, read


def samples(path=HUB):
    """Return the training images. Columns: `index`, `image` (uint8 [28, 28]), `label`."""
    images, labels = read(path, "train")
    return {"index": np.arange(len(labels)), "image": images, "label": labels}


def tensors(path, which, device="cpu"):
    """Return the models' inputs, float32 [n, 28, 28], and labels, int64 [n]."""
    images, labels = read(path, which)
    return torch.tensor(images, device=device).float() / 255, torch.tensor(labels, device=device)


def preprocess(sample):
    """Return the models' input for a sample, float32 [28, 28]."""
    return np.asarray(sample["image"], np.float32) / 255
