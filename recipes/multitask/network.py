"""The network of teachers and students: a shared trunk, and a head for each task."""

import torch
from scenes import MASK
from torch import nn
from torch.nn.functional import interpolate

TASKS = ("digit", "mask", "box", "angle")
SIZES = {"digit": 10, "box": 4, "angle": 2}  # and the mask, a map


class Network(nn.Module):
    """From scenes [B, 1, 48, 48] to the answers by task: digit [B, 10], mask [B, 1, 24, 24], box [B, 4], angle [B, 2].

    Digit and mask are logits.
    """

    def __init__(self, width, tasks=TASKS):
        super().__init__()
        self.near, self.middle, self.trunk = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())
            for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.heads = nn.ModuleDict({task: head(task, width) for task in tasks})

    def forward(self, scenes):
        return self.with_trunk(scenes)[0]

    def with_trunk(self, scenes):
        """Return the answers, and what the heads share: maps [B, 4 width, 6, 6]."""
        middle = self.middle(self.near(scenes))
        trunk = self.trunk(middle)
        wide = torch.cat([middle, interpolate(trunk, scale_factor=2)], 1)
        return {task: head(wide if task == "mask" else trunk) for task, head in self.heads.items()}, trunk


def head(task, width):
    """Return the head of a task."""
    if task == "mask":
        return nn.Sequential(
            nn.Conv2d(6 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((MASK, MASK)),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )
    return nn.Sequential(nn.Flatten(), nn.Linear(36 * 4 * width, 64), nn.ReLU(), nn.Linear(64, SIZES[task]))
