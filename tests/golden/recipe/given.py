"""A teacher whose answers are in the samples: hardly any arithmetic, so the same bytes on every machine."""

import torch
from torch import nn

from softcache.teachers import Sequences

ROWS = {
    "id": ["zebra", "änderung", "日本", "a b", "42"],
    "logits": [[1.5, -2.0, 0.25], [0.0, 60.0, -60.0], [3.0, 3.0, 3.0], [-0.5, 8.0, 1e-3], [float("nan"), 0.0, 0.0]],
    "label": [0, 1, 2, 1, 0],
}
CLASSES = 70_000


class Given(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.head.load_state_dict({"weight": torch.eye(3) / 2, "bias": torch.tensor([0.0, 1.0, 2.0])})

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor | Sequences]:
        lengths = rows[:, 0].isfinite() * (rows[:, 0].nan_to_num().abs().int() + 1)
        return {
            "frames": Sequences.from_padded(rows[:, None] * torch.arange(4)[:, None], lengths.tolist()),
            "cls": rows,
            "half": rows,
            "maps": rows[:, None].expand(-1, 2, -1).contiguous(),
            "top": top(rows),
            "seg": torch.stack([rows, rows.flip(1)], 2)[..., None],
            "found": found(rows, lengths.tolist()),
            "depth": {"values": rows, "variance": rows.nan_to_num() ** 2 + 1},
            "tagmap": rows[:, None].expand(-1, 2, -1)[..., None].contiguous(),
            "masked": torch.cat([rows, torch.full_like(rows[:, :1], -torch.inf)], 1),
            "odds": torch.tensor([[0.5, 0.25, 0.25]]).repeat(len(rows), 1),
            "asked": torch.tensor([[[7.0, 2.0], [-1.0, -0.5]]], dtype=torch.float64).repeat(len(rows), 1, 1),
        }


def found(rows: torch.Tensor, lengths: list[int]) -> Sequences:
    """As many boxes as there are frames, each with the row's logits; none for the row that is bad."""
    values = [row[None].expand(n, -1) for row, n in zip(rows, lengths, strict=True)]
    boxes = [torch.arange(4.0 * n).view(n, 4) for n in lengths]
    return Sequences.from_lists(values, boxes=boxes, scores=[torch.full((n,), 0.5) for n in lengths])


def top(rows: torch.Tensor) -> torch.Tensor:
    """The given logits as of the last three classes; the first 64 lie 4 below the lowest, others are ruled out."""
    logits = torch.full((len(rows), CLASSES), -torch.inf)
    logits[:, :64] = rows.amin(1, keepdim=True) - 4
    logits[:, -3:] = rows
    return logits


def rows() -> dict[str, list]:
    return ROWS


def preprocess(sample: dict) -> torch.Tensor:
    return torch.tensor(sample["logits"], dtype=torch.float32)
