"""The student: two hidden layers of rectified linear units, without any regularisation."""

from torch import nn


def student(width):
    """Return a network from images [B, 28, 28] to logits [B, 10], with random weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )
