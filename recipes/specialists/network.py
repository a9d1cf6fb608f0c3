"""The network of the generalist, of the specialists and of the students."""

from torch import nn


def network(classes, width):
    """Return a network of two hidden layers from images [B, 28, 28] to logits [B, classes]."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )
