"""The teacher and the student: the same convolutions at different widths."""

from torch import nn


def convolutions(width):
    """Return a model from images [B, 1, 28, 28] to logits [B, 10]: three blocks that halve it, a linear layer."""

    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(
        block(1, width), block(width, 2 * width), block(2 * width, 4 * width), nn.Flatten(), nn.Linear(36 * width, 10)
    )


def teacher():
    """Return the teacher, with random weights."""
    return convolutions(32)


def student():
    """Return a student a quarter as wide, with random weights."""
    return convolutions(8)
