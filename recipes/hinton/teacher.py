"""The teacher: two hidden layers of rectified linear units, with dropout of 0.2 at the input and of 0.5 after them."""

from torch import nn


def teacher(width):
    """Return a network from images [B, 28, 28] to logits [B, 10], with random weights."""

    def hidden(inputs):
        return nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.5)

    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), *hidden(784), *hidden(width), nn.Linear(width, 10))
