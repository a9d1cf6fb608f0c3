"""Train small students on the views that the teacher saw, and one student on different views.

python recipes/imagenet/train_views.py runs/imagenet-views runs/imagenet
"""

import argparse
import time

import numpy as np
import torch
from photos import crops, preprocess, view
from train import PIXELS, RATE, TEMPERATURE, Student, evaluate

import softcache

EPOCHS, BATCH = 32, 40
OWN = np.random.default_rng(0)
# For each student: how many views it cycles through, the target, and whether it sees its own views instead.
STUDENTS = {
    "1 view": (1, "class32", False),
    "2 views": (2, "class32", False),
    "4 views": (4, "class32", False),
    "8 views": (8, "class32", False),
    "8 views, 71 bytes each": (8, "class10", False),
    "8 views, not the teacher's": (8, "class32", True),
}


def other(image: np.ndarray) -> np.ndarray:
    """Return a view that no teacher saw."""
    return view(image, OWN)


def small(image: np.ndarray) -> torch.Tensor:
    """Return the student's input for a view, float32 [3, 64, 64]."""
    return preprocess({"image": image}, PIXELS)


def train(name: str, cache: softcache.Cache, samples: list[dict], seed: int, epochs: int) -> Student:
    """Train a student. All students with the same seed have the same initial weights and order of crops."""
    count, target, is_other = STUDENTS[name]
    torch.manual_seed(seed)
    student = Student(1000)
    transform, check = (other, "off") if is_other else (view, "sampled")
    data = softcache.views(samples, cache, transform, id="crop", views=count, targets=[target], then=small, check=check)
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, generator=generator, collate_fn=softcache.collate)
    optimizer = torch.optim.AdamW(student.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for batch in loader:
            logits = student(batch["image"])["logits"]
            loss = softcache.distillation_loss(logits, batch["soft"][f"{target}@effnet"], TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache built from views.yaml")
    parser.add_argument("plain", help="the cache built from recipe.yaml; its other crops are held out")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    cache, plain = softcache.open(options.cache), softcache.open(options.plain)
    made = crops(plain.commit.transfer_set["source"]["arguments"]["each"])
    seen = set(cache.rows.table()["sample_id"].to_pylist())
    everything = [{"crop": crop, "image": image} for crop, image in zip(made["crop"], made["image"], strict=True)]
    samples = [sample for sample in everything if sample["crop"] in seen]
    held_out = [sample | {"image": small(sample["image"])} for sample in everything if sample["crop"] not in seen]
    print(f"{len(samples):,} crops to train on, {len(held_out):,} held out; {options.epochs} epochs")
    print(f"{'student':44} {'agrees with teacher':>20} {'KL to teacher':>14} {'seconds':>8}", flush=True)
    for name in STUDENTS:
        began = time.monotonic()
        found = [
            evaluate(train(name, cache, samples, seed, options.epochs), plain, held_out)
            for seed in range(options.seeds)
        ]
        (agrees, kl), seconds = np.mean(found, 0), (time.monotonic() - began) / options.seeds
        print(f"{name:44} {100 * agrees:19.1f}% {kl:14.3f} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
