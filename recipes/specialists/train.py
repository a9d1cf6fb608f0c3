"""Combine the specialists with their generalists as Hinton et al. 2015, section 5, and train students from both.

python recipes/specialists/train.py runs/specialists --data MNIST FASHION

The teachers' weights are not needed. Run it again after a kill: students that are done are not trained again.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from data import FASHION, HUB, tensors
from network import network
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn, of_cache, row, soft_loss, softened, trained
from mnist import whole

FIRST_SEED = 1000  # a student must not begin as its generalist
STUDENT = {"width": 24, "epochs": 30, "batch": 128, "rate": 2e-3, "temperature": 2.0, "alpha": 0.5}
STUDENTS = ("hard labels", "the generalist", "the generalist and its specialists")


def train(job, checkpoint):
    """Train a student and return its accuracy on the test images, in %."""
    images, labels = (each.to(device()) for each in tensors(job["data"], "train"))
    tests, right = (each.to(device()) for each in tensors(job["data"], "test"))
    temperature, alpha, teachers = job["temperature"], job["alpha"], job["teachers"]
    soft = None
    if teachers != STUDENTS[0]:
        target = (
            together(job["cache"], job["generalist"])
            if teachers == STUDENTS[2]
            else generalist(job["cache"], job["generalist"])
        )
        soft = softened(target.lookup(range(len(labels))), temperature).to(device())
    torch.manual_seed(job["seed"])
    model, generator = network(job["classes"], job["width"]).to(device()), torch.Generator().manual_seed(job["seed"])

    def loss(rows):
        logits = model(images[rows])
        hard = cross_entropy(logits, labels[rows])
        return hard if soft is None else alpha * soft_loss(logits, soft[rows], temperature) + (1 - alpha) * hard

    def score():
        return 100 * (model(tests).argmax(1) == right).float().mean().item()

    curve = learn(job, checkpoint, model, generator, len(labels), loss, score)
    return {"curve": curve, "accuracy": curve[-1]}


def generalist(path, seed):
    """Return the target of a generalist."""
    return softcache.open(path)[f"class@g{seed}"]


def members(path, seed):
    """Return the targets of a generalist's specialists."""
    opened = softcache.open(path)
    return [opened[name] for name in opened.targets if name.startswith(f"class@g{seed}-")]


def together(path, seed):
    """Return the target that combines a generalist with its specialists."""
    return softcache.specialists(generalist(path, seed), members(path, seed))


def compare(path, seed):
    """Return for each test image whether the generalist is right and whether the combination is, and its coverage.

    Coverage is how many specialists know the image's class.
    """
    table = softcache.open(path).rows.table()
    test = np.array(table["test"])
    ids, labels = np.array(table["sample_id"])[test], torch.tensor(np.array(table["label"])[test])
    knows = [torch.isin(labels, torch.tensor(target.task.known)) for target in members(path, seed)]
    found = [
        target.lookup(ids).log_probs().argmax(1) == labels for target in (generalist(path, seed), together(path, seed))
    ]
    return *found, torch.stack(knows).sum(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--data", nargs="+", default=[HUB, FASHION], help="the same as for build.py")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--epochs", type=int, default=STUDENT["epochs"])
    options = parser.parse_args()
    path = str(options.cache)
    seeds = [seed for seed in range(100) if f"class@g{seed}" in softcache.open(path).targets]
    alone, both, coverage = zip(*(compare(path, seed) for seed in seeds), strict=True)
    print("Test images that are right, in %\n\n| | mean | std | least | most | seeds |\n|---|--:|--:|--:|--:|--:|")
    for title, right in (("generalists", alone), ("with their specialists", both)):
        print(row(title, [100 * each.float().mean().item() for each in right], 2))
    print("\n| specialists that know the class | images | generalist right | with specialists | more right |")
    print("|--:|--:|--:|--:|--:|")
    alone, both, coverage = torch.cat(alone), torch.cat(both), torch.cat(coverage)
    for count in coverage.unique().tolist():
        chosen = coverage == count
        before, after = int(alone[chosen].sum()), int(both[chosen].sum())
        images = int(chosen.sum())
        shares = " | ".join(f"{100 * right / images:.2f}" for right in (before, after))
        print(f"| {count} | {images:,} | {shares} | {100 * (after - before) / before:+.2f} % |")
    common = (
        STUDENT | of_cache(options.cache) | {"data": [whole(each) for each in options.data], "epochs": options.epochs}
    )
    jobs = [
        common | {"classes": 10 * len(options.data), "teachers": t, "generalist": s, "seed": FIRST_SEED + s}
        for t in STUDENTS
        for s in seeds
    ]
    found = iter(trained(jobs, train, options.out or options.cache.with_name(f"{options.cache.name}-students")))
    print("\n| students taught by | mean | std | least | most | seeds |\n|---|--:|--:|--:|--:|--:|")
    for title in STUDENTS:
        print(row(title, [next(found)["accuracy"] for _ in seeds], 2))


if __name__ == "__main__":
    main()
