"""Train a student of each teacher, and print what `softcache evaluate` said of the teacher beside what it reached.

python recipes/choosing/train.py runs/choosing --data FOLDER

The teachers' weights are not needed. Run it again after a kill: students that are done are not trained again.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev

import torch
from data import FASHION, tensors
from network import network
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn, of_cache, trained
from mnist import whole

STUDENT = {"width": 64, "epochs": 20, "rate": 1e-3, "batch": 128}
FIRST_SEED = 1000  # the teachers have 0
TEMPERATURES = (1.0, 4.0)
NOBODY = "hard labels"


def train(job, checkpoint):
    """Train a student and return its accuracy on the test images, in %."""
    images, labels = (each.to(device()) for each in tensors(job["data"], "train"))
    tests, right = (each.to(device()) for each in tensors(job["data"], "test"))
    soft = None
    if job["teacher"] != NOBODY:
        soft = softcache.open(job["cache"])[f"class@{job['teacher']}"].lookup(range(len(labels))).to(device())
    torch.manual_seed(job["seed"])
    model, generator = network(job["width"]).to(device()), torch.Generator().manual_seed(job["seed"])

    def loss(rows):
        logits = model(images[rows])
        if soft is None:
            return cross_entropy(logits, labels[rows])
        return softcache.distillation_loss(logits, soft[rows], temperature=job["temperature"])

    def score():
        return 100 * (model(tests).argmax(1) == right).float().mean().item()

    curve = learn(job, checkpoint, model, generator, len(labels), loss, score)
    return {"curve": curve, "accuracy": curve[-1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--data", default=FASHION, help="the same as for build.py")
    parser.add_argument("--evaluation", type=Path, help="the teachers' evaluation, by default beside the cache")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=STUDENT["epochs"])
    options = parser.parse_args()
    beside = options.cache.with_name(f"{options.cache.name}-teachers") / "evaluation.json"
    evaluation = json.loads((options.evaluation or beside).read_text())
    metrics = {
        each["teacher"]: each["metrics"] for each in evaluation["candidates"] if each["teacher"] != "all together"
    }
    common = STUDENT | of_cache(options.cache) | {"data": whole(options.data), "epochs": options.epochs}
    rows = {(NOBODY, 1.0): []} | {(name, t): [] for name in metrics for t in TEMPERATURES}
    jobs = [
        common | {"teacher": teacher, "temperature": temperature, "seed": FIRST_SEED + seed}
        for teacher, temperature in rows
        for seed in range(options.seeds)
    ]
    for each in trained(jobs, train, options.out or options.cache.with_name(f"{options.cache.name}-students")):
        rows[each["job"]["teacher"], each["job"]["temperature"]].append(each["accuracy"])
    shown = {key: f"{mean(found):.2f} ± {stdev(found) if len(found) > 1 else 0:.2f}" for key, found in rows.items()}
    print("| teacher | accuracy | NLL | calibration error | fitted T | entropy | student, T = 1 | student, T = 4 |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    print(f"| none: {NOBODY} | | | | | | {shown[NOBODY, 1.0]} | |")
    for name, found in metrics.items():
        numbers = [found[key] for key in ("nll", "ece", "fitted_temperature")] + [found["entropy"]["1"]]
        cells = [f"{100 * found['accuracy']:.2f}", *(f"{number:.3f}" for number in numbers)]
        cells += [shown[name, temperature] for temperature in TEMPERATURES]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
