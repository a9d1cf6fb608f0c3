"""The network of teachers and students: a shared trunk, and a head for each task."""

import torch
from torch import nn
from torch.nn.functional import interpolate, relu

TASKS = ("digit", "mask", "box", "angle")
SIZES = {"digit": 10, "box": 4, "angle": 2}  # and the mask, a map


class Network(nn.Module):
    """From scenes [B, 1, 48, 48] to the answers by task: digit [B, 10], mask [B, 1, 24, 24], box [B, 4], angle [B, 2].

    Digit and mask are logits.
    """

    def __init__(self, width, tasks=TASKS):
        super().__init__()
        sizes = ((1, width), (width, 2 * width), (2 * width, 4 * width))
        self.near, self.middle, self.trunk = (
            nn.Sequential(*layer(inputs, outputs, 2), *layer(outputs, outputs, 1)) for inputs, outputs in sizes
        )
        self.heads = nn.ModuleDict({task: head(task, width) for task in tasks})

    def forward(self, scenes):
        return self.with_trunk(scenes)[0]

    def with_trunk(self, scenes):
        """Return the answers, and what the heads share: maps [B, 4 width, 6, 6]."""
        near = self.near(scenes.contiguous(memory_format=torch.channels_last))  # a third faster on CPUs
        middle = self.middle(near)
        trunk = self.trunk(middle)
        return {
            task: head(near, middle, trunk) if task == "mask" else head(trunk) for task, head in self.heads.items()
        }, trunk


class Mask(nn.Module):
    """From what all three layers see to the logits of a mask [B, 1, 24, 24]."""

    def __init__(self, width):
        super().__init__()
        self.trunk, self.middle = (nn.Conv2d(times * width, width, 1) for times in (4, 2))
        self.both, self.last = (nn.Conv2d(width, outputs, 3, padding=1) for outputs in (width, 1))

    def forward(self, near, middle, trunk):
        both = relu(self.both(self.middle(middle) + interpolate(self.trunk(trunk), scale_factor=2)))
        return self.last(relu(near + interpolate(both, scale_factor=2)))


class Pool(nn.Module):
    """From maps [B, C, H, W] to their means and maxima, [B, 2 C]: what there is, not where."""

    def forward(self, maps):
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def layer(inputs, outputs, stride):
    """Return the parts of a convolution."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()


def head(task, width):
    """Return the head of a task."""
    if task == "mask":
        return Mask(width)
    size = 4 * width
    flat, inputs = (nn.Flatten(), 36 * size) if task == "box" else (Pool(), 2 * size)
    return nn.Sequential(flat, nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, SIZES[task]))
