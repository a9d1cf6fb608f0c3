"""Train small students that read bytes: on only the teacher's first class, and on its soft targets.

python recipes/magika/train.py runs/magika
"""

import argparse
import time

import numpy as np
import torch
from files import PADDING, preprocess, samples
from torch import nn

import softcache

EPOCHS, BATCH, RATE = 8, 64, 3e-3
SIDE = 256


class ByteStudent(nn.Module):
    """Classify the bytes at both ends of a file: an embedding, two convolutions, a global maximum, a linear layer."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.bytes = nn.Embedding(PADDING + 1, 16)
        self.reads = nn.Sequential(
            nn.Conv1d(16, width, 8, stride=4), nn.ReLU(), nn.Conv1d(width, width, 8, stride=4), nn.ReLU()
        )
        self.says = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        ends = torch.cat([tokens[:, :SIDE], tokens[:, -SIDE:]], 1)
        return self.says(self.reads(self.bytes(ends).movedim(1, 2)).amax(2))


def loss_of(student: str, logits: torch.Tensor, soft: softcache.SoftTargets) -> torch.Tensor:
    """Return a student's loss, a scalar."""
    if student == "hard":
        first = soft.values.argmax(1)
        return softcache.distillation_loss(logits, soft, labels=first, alpha=0.0)
    return softcache.distillation_loss(logits, soft, temperature=float(student.removeprefix("soft, T = ")))


def train(
    name: str, target: softcache.Target, tokens: torch.Tensor, ids: np.ndarray, seed: int, epochs: int
) -> ByteStudent:
    """Train a student on files. All students with the same seed see the same batches."""
    torch.manual_seed(seed)
    student = ByteStudent(target.task.shape[0])
    optimizer = torch.optim.AdamW(student.parameters(), RATE)
    steps = epochs * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(ids)), steps // epochs):
            loss = loss_of(name, student(tokens[rows]), target.lookup(ids[rows].tolist()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student


@torch.inference_mode()
def evaluate(
    student: ByteStudent, target: softcache.Target, tokens: torch.Tensor, ids: np.ndarray
) -> tuple[float, float]:
    """Return how often the first class of student and teacher agree, and the mean KL(teacher || student) at T = 1."""
    logits, soft = student(tokens), target.lookup(ids.tolist())
    kl = softcache.distillation_loss(logits, soft)
    return (logits.argmax(1) == soft.values.argmax(1)).float().mean().item(), kl.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache that `softcache build` wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    cache = softcache.open(options.cache)
    target, rows = cache["kind"], cache.rows.table()
    ids = np.array(rows["sample_id"].to_pylist(), dtype=object)
    held_out = np.array(rows["held_out"].to_pylist())
    tokens = read_tokens(ids)
    print(f"{(~held_out).sum():,} files to train on, {held_out.sum():,} held out; {options.epochs} epochs")
    print(f"{'student trained on':20} {'agrees with teacher':>20} {'KL to teacher':>14} {'seconds':>8}", flush=True)
    for name in ("hard", "soft, T = 1.0", "soft, T = 2.0", "soft, T = 4.0"):
        began = time.monotonic()
        found = [
            evaluate(
                train(name, target, tokens[~held_out], ids[~held_out], seed, options.epochs),
                target,
                tokens[held_out],
                ids[held_out],
            )
            for seed in range(options.seeds)
        ]
        agrees, kl = np.array(found).mean(0)
        print(f"{name:20} {100 * agrees:19.1f}% {kl:14.3f} {time.monotonic() - began:8.0f}", flush=True)


def read_tokens(ids: np.ndarray) -> torch.Tensor:
    """Return the teacher's input for each file, int32 [n, 2048], joined by path."""
    made = samples(len(ids))
    place = {path: i for i, path in enumerate(made["path"])}
    inputs = [
        preprocess({"head": made["head"][i], "tail": made["tail"][i]}) for i in (place[path] for path in ids.tolist())
    ]
    return torch.from_numpy(np.stack(inputs))


if __name__ == "__main__":
    main()
