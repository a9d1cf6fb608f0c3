"""Train a small student from the digits cache: hard labels compared with soft targets at several temperatures.

python recipes/digits/train.py runs/digits
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import softcache

sys.path.insert(0, str(Path(__file__).parent))
from data import digits, is_test

TEMPERATURES = (1, 2, 4, 8, 20)
LABELLED, HIDDEN, STEPS, BATCH, RATE = 100, 16, 400, 50, 1e-2


def student(seed: int) -> nn.Module:
    """Return a student with one hidden layer of 16 units (1,210 weights)."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def train(cache: softcache.Cache, seed: int, temperature: float | None) -> float:
    """Train on 100 labelled digits and return the accuracy on the held-out third. None trains on hard labels."""
    data = digits()
    images = torch.from_numpy(data["image"]).float() / 8 - 1
    labels = torch.from_numpy(data["label"])
    test = torch.from_numpy(is_test(data["id"]))
    known = np.random.default_rng(seed).permutation(np.flatnonzero(~test.numpy()))[:LABELLED]
    teachers = softcache.ensemble([cache["digit@a"], cache["digit@b"], cache["digit@c"]])
    soft = teachers.lookup(data["id"][known])
    model = student(seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(STEPS):
        picked = torch.randint(LABELLED, (BATCH,))
        logits = model(images[known[picked]])
        if temperature is None:
            loss = nn.functional.cross_entropy(logits, labels[known[picked]])
        else:
            loss = softcache.distillation_loss(logits, soft[picked], temperature=temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        return (model(images[test]).argmax(1) == labels[test]).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)  # in a model this small, threads cost more than they save, above all on a busy machine
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache that `softcache build` wrote")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    cache = softcache.open(arguments.cache)
    print(f"{LABELLED} training digits, {arguments.seeds} seeds; accuracy on the held-out digits")
    print(f"{'student trained on':24} {'mean':>6} {'std':>6} {'min':>6} {'max':>6}")
    for temperature in (None, *TEMPERATURES):
        name = "hard labels" if temperature is None else f"soft targets, T = {temperature}"
        found = np.array([train(cache, seed, temperature) for seed in range(arguments.seeds)])
        spread = found.std(ddof=1) if len(found) > 1 else 0.0
        print(f"{name:24} {found.mean():6.4f} {spread:6.4f} {found.min():6.4f} {found.max():6.4f}", flush=True)


if __name__ == "__main__":
    main()
