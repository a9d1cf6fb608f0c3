"""Sets of images joined into one task: the classes of the second come after those of the first."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from mnist import FASHION, HUB, read


def joined(paths, which):
    """Return the images, uint8 [n, 28, 28], and labels, int64 [n], of several sets of ten classes each."""
    found = [read(path, which) for path in paths]
    labels = [own + 10 * number for number, (_, own) in enumerate(found)]
    return np.concatenate([images for images, _ in found]), np.concatenate(labels)


def samples(paths=(HUB, FASHION)):
    """Return the training images, then the test images. Columns: `index`, `image` (uint8 [28, 28]), `label`, `test`."""
    (images, labels), (tests, right) = joined(paths, "train"), joined(paths, "test")
    both = np.concatenate([images, tests])
    test = np.arange(len(both)) >= len(images)
    return {"index": np.arange(len(both)), "image": both, "label": np.concatenate([labels, right]), "test": test}


def tensors(paths, which):
    """Return the models' inputs, float32 [n, 28, 28], and labels, int64 [n]."""
    images, labels = joined(paths, which)
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels)


def preprocess(sample):
    """Return the models' input for a sample, float32 [28, 28]."""
    return np.asarray(sample["image"], np.float32) / 255
