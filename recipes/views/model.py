"""The teacher and the student: convolutions of different widths."""

from torch import nn


def convolutions(width):
    """Three blocks that halve the image, and a linear layer."""

    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(
        block(1, width), block(width, 2 * width), block(2 * width, 4 * width), nn.Flatten(), nn.Linear(36 * width, 10)
    )


def teacher():
    return convolutions(32)


def student():
    return convolutions(8)
