"""Train one small student on the targets of three teachers at once: a shared trunk and a head for each task.

python recipes/ocr/train.py runs/ocr
"""

import argparse
import time

import numpy as np
import torch
from lines import samples
from torch import nn

import softcache

EPOCHS, BATCH, RATE = 12, 16, 3e-3
# The weight of each task's loss. A student of one task is the same student with the other weights at 0.
STUDENTS = {
    "all three tasks": {"characters": 1.0, "where": 1.0, "turned": 1.0},
    "characters only": {"characters": 1.0},
    "where only": {"where": 1.0},
    "turned only": {"turned": 1.0},
}


class Student(nn.Module):
    """A convolutional trunk over lines [B, 1, 48, 320], and three heads."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        sizes = [(1, width // 2), (width // 2, width), (width, 2 * width)]
        self.trunk = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in sizes)
        )
        self.characters = nn.Sequential(nn.Conv1d(12 * width, 2 * width, 3, padding=1), nn.ReLU())
        self.says = nn.Linear(2 * width, classes)
        self.where = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.turned = nn.Linear(2 * width, 2)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.trunk(images)
        frames = self.characters(found.flatten(1, 2)).movedim(1, 2)
        inside = nn.functional.interpolate(self.where(found), images.shape[2:], mode="bilinear")
        return {
            "characters": self.says(frames),
            # The teacher sees eight more rows above and below the line, where there is no text.
            "where": nn.functional.pad(inside, (0, 0, 8, 8), value=-8.0),
            "turned": self.turned(found.mean((2, 3))),
        }


def train(
    weights: dict[str, float], cache: softcache.Cache, images: torch.Tensor, ids: np.ndarray, seed: int, epochs: int
) -> Student:
    """Train a student on lines. All students with the same seed see the same batches."""
    torch.manual_seed(seed)
    student = Student(cache["characters"].task.shape[0])
    optimizer = torch.optim.AdamW(student.parameters(), RATE)
    steps = epochs * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(ids)), steps // epochs):
            found = student(images[rows])
            losses = [
                weight * softcache.distillation_loss(found[task], cache[task].lookup(ids[rows]))
                for task, weight in weights.items()
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return student.eval()


@torch.inference_mode()
def evaluate(student: Student, cache: softcache.Cache, images: torch.Tensor, ids: np.ndarray) -> list[float]:
    """Return three shares: frames that agree with the teacher, overlap of text areas, directions that agree."""
    found = student(images)
    soft = {task: cache[task].lookup(ids) for task in found}
    frames = soft["characters"].sparse_log_probs().ids[..., 0] == found["characters"].argmax(2)
    theirs, ours = soft["where"].probs() > 0.5, found["where"] > 0
    directions = soft["turned"].values.argmax(1) == found["turned"].argmax(1)
    overlap = (theirs & ours).sum() / (theirs | ours).sum().clamp(min=1)
    return [frames.float().mean().item(), overlap.item(), directions.float().mean().item()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache that `softcache build` wrote")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    cache = softcache.open(options.cache)
    rows = cache.rows.table()
    ids, held_out = (np.array(rows[name].to_pylist()) for name in ("sample_id", "held_out"))
    made = samples(len(ids))["image"]
    images = torch.from_numpy(made[ids].astype(np.float32))[:, None] / 127.5 - 1
    print(f"{(~held_out).sum():,} lines to train on, {held_out.sum():,} held out; {options.epochs} epochs")
    print(f"{'student trained on':20} {'frames':>8} {'where':>8} {'turned':>8} {'seconds':>8}", flush=True)
    for name, weights in STUDENTS.items():
        began = time.monotonic()
        found = [
            evaluate(
                train(weights, cache, images[~held_out], ids[~held_out], seed, options.epochs),
                cache,
                images[held_out],
                ids[held_out],
            )
            for seed in range(options.seeds)
        ]
        shown = dict(zip(("characters", "where", "turned"), np.array(found).mean(0), strict=True))
        columns = " ".join(f"{100 * share:7.1f}%" if task in weights else " " * 8 for task, share in shown.items())
        print(f"{name:20} {columns} {time.monotonic() - began:8.0f}", flush=True)


if __name__ == "__main__":
    main()
