"""The network of the teachers and of the student."""

from torch import nn


def network(width, dropout=0.0):
    """Return a network of two hidden layers from images [B, 28, 28] to logits [B, 10]. Dropout follows each of them."""
    hidden = [
        part
        for inputs in (784, width)
        for part in (nn.Linear(inputs, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else []))
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))
