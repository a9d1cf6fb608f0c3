"""Train small students on the teacher's first class, on its soft targets, and with hints from its features.

python recipes/imagenet/train.py runs/imagenet
"""

import argparse
import time
from itertools import pairwise

import numpy as np
import torch
from photos import crops, preprocess
from torch import nn

import softcache

EPOCHS, BATCH, RATE, PIXELS, TEMPERATURE = 20, 48, 3e-3, 64, 2.0
# Each student's targets, and the weight of each in its loss.
STUDENTS = {
    "teacher's first class": {"hard": 1.0},
    "soft, all logits": {"class": 1.0},
    "soft, 194 bytes": {"class32": 1.0},
    "soft and pooled features": {"class32": 1.0, "pooled": 0.5},
    "soft and hints from maps": {"class32": 1.0, "maps": 0.5},
}


class Student(nn.Module):
    """Four strided convolutions, a layer for the classes, and layers that predict the teacher's features."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 4 * width]
        self.sees = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(sizes)
        )
        self.says = nn.Linear(sizes[-1], classes)
        self.to_pooled, self.to_maps = nn.Linear(sizes[-1], 1280), nn.Conv2d(sizes[-2], 112, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found, middle = images, images
        for layer in self.sees:
            middle, found = found, layer(found)
        pooled = found.mean((2, 3))
        maps = nn.functional.interpolate(self.to_maps(middle), (14, 14), mode="bilinear")
        return {"logits": self.says(pooled), "pooled": self.to_pooled(pooled), "maps": maps}


def loss_of(given: dict[str, float], found: dict[str, torch.Tensor], soft: softcache.SoftBatch) -> torch.Tensor:
    """Return the weighted sum of a student's losses, a scalar."""
    total = torch.zeros(())
    for name, weight in given.items():
        if name == "hard":
            first = soft["class"].values.argmax(1)
            loss = softcache.distillation_loss(found["logits"], soft["class"], labels=first, alpha=0.0)
        elif name.startswith("class"):
            loss = softcache.distillation_loss(found["logits"], soft[name], TEMPERATURE)
        else:
            loss = softcache.regression_loss(found[name], soft[name])
        total = total + weight * loss
    return total


def train(
    given: dict[str, float], cache: softcache.Cache, data: torch.utils.data.Dataset, seed: int, epochs: int
) -> Student:
    """Train a student. All students with the same seed see the same batches."""
    torch.manual_seed(seed)
    student = Student(1000)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))
    names = ["class" if name == "hard" else name for name in given]
    optimizer = torch.optim.AdamW(student.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for batch in softcache.join(loader, cache, id="crop", targets=names):
            loss = loss_of(given, student(batch["image"]), batch["soft"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval()


@torch.inference_mode()
def evaluate(student: Student, cache: softcache.Cache, data: list[dict]) -> tuple[float, float]:
    """Return how often the first class of student and teacher agree, and the mean KL(teacher || student) at T = 1."""
    logits = student(torch.stack([sample["image"] for sample in data]))["logits"]
    soft = cache["class"].lookup([sample["crop"] for sample in data])
    agrees = (logits.argmax(1) == soft.values.argmax(1)).float().mean()
    return agrees.item(), softcache.distillation_loss(logits, soft).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache that `softcache build` wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    cache = softcache.open(options.cache)
    each = cache.commit.transfer_set["source"]["arguments"]["each"]
    made = crops(each)
    data = [
        {"crop": made["crop"][i], "image": preprocess({"image": image}, PIXELS)}
        for i, image in enumerate(made["image"])
    ]
    held_out = np.array(made["held_out"])
    seen, unseen = ([data[i] for i in np.flatnonzero(rows)] for rows in (~held_out, held_out))
    print(f"{len(seen):,} crops to train on, {len(unseen):,} held out; {options.epochs} epochs")
    print(f"{'student trained on':26} {'agrees with teacher':>20} {'KL to teacher':>14} {'seconds':>8}", flush=True)
    for name, given in STUDENTS.items():
        began = time.monotonic()
        found = [
            evaluate(train(given, cache, seen, seed, options.epochs), cache, unseen) for seed in range(options.seeds)
        ]
        agrees, kl = np.array(found).mean(0)
        print(f"{name:26} {100 * agrees:19.1f}% {kl:14.3f} {time.monotonic() - began:8.0f}", flush=True)


if __name__ == "__main__":
    main()
