"""The digits teachers: small CNNs and their preprocessing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class DigitsCNN(nn.Module):
    """Two convolutions and a hidden layer. Returns `digit` (logits [B, 10]) and `embedding` ([B, hidden])."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * 16, hidden),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(hidden, 10))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        embedding = self.trunk(images)
        return {"digit": self.head(embedding), "embedding": embedding}


def preprocess(sample: Mapping[str, Any]) -> torch.Tensor:
    """Return the teachers' input, float32 [1, 8, 8], from one sample's image (uint8 [8, 8], 0 to 16)."""
    return torch.tensor(sample["image"], dtype=torch.float32)[None] / 8 - 1
