"""The network, of teachers and students alike: the frames around one frame in, the state of that frame out."""

from itertools import pairwise

import torch
from corpus import STATES
from frames import BANDS
from torch import nn

AROUND = 5  # frames before and after


class Network(nn.Module):
    """Hidden layers of rectified linear units, from frames [B, F, 40] to logits [B, F, states]."""

    def __init__(self, width, layers=3):
        super().__init__()
        sizes = [BANDS * (2 * AROUND + 1), *[width] * layers]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, STATES))

    def forward(self, frames):
        return self.layers(windows(frames))


def windows(frames):
    """Return each frame with those around it, [..., F, 40] to [..., F, 440]; the first and the last are repeated."""
    places = torch.arange(frames.shape[-2])[:, None] + torch.arange(-AROUND, AROUND + 1)
    return frames[..., places.clamp(0, frames.shape[-2] - 1).to(frames.device), :].flatten(-2)
