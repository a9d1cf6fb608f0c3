"""Digits specialists: each knows three digits that the teachers confuse, and has a dustbin for the other seven."""

import torch
from torch import nn


class Specialist(nn.Module):
    """Two convolutions and a hidden layer. Returns `digit`, logits [B, 4]: three digits, then the dustbin."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(256, 32),
            nn.ReLU(),
            nn.Linear(32, 4),
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"digit": self.layers(images)}
