"""Compare students that trained for the same time: on hard labels, with a live teacher, and from the cache.

python recipes/hinton/equal_time.py runs/hinton WEIGHTS --data FOLDER

An epoch of each is timed first, and a build of the cache; that wants a machine that does nothing else. Then students
are trained. Run it again after a kill: it goes on where it was. Unlike train.py it needs the teacher's weights.
"""

import argparse
import sys
from pathlib import Path

import torch
from build import build
from data import tensors
from safetensors.torch import load_file
from student import student
from teacher import teacher
from torch.nn.functional import cross_entropy
from train import BATCH, MOMENTUM, answers, wrong

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from clock import CACHE, compare
from experiments import device, learn, of_cache, soft_loss
from mnist import HUB, whole

TEMPERATURE, FIRST_SEED = 20.0, 1000
KINDS = {"hard labels": {"rate": 0.1}, "live teacher": {"rate": 0.05}, CACHE: {"rate": 0.05}}


def train(job, checkpoint):
    """Train a student in one of the three ways, and return its errors on the test images."""
    (images, labels), tests = (tensors(job["data"], which, device()) for which in ("train", "test"))
    torch.manual_seed(job["seed"])
    model, generator = student(800).to(device()), torch.Generator().manual_seed(job["seed"])
    optimizer = torch.optim.SGD(model.parameters(), job["rate"], momentum=MOMENTUM, nesterov=True)
    loss = loss_of(job, images, labels)
    learn(
        job,
        checkpoint,
        model,
        generator,
        len(images),
        loss=lambda rows: loss(model(images[rows]), rows),
        optimizer=optimizer,
    )
    return {"test errors": wrong(answers(model, tests[0]), tests[1])}


def loss_of(job, images, labels):
    """Return the loss of logits [B, 10] for the images of some rows."""
    if job["kind"] == "hard labels":
        return lambda logits, rows: cross_entropy(logits, labels[rows])
    if job["kind"] == CACHE:
        said = softcache.open(job["cache"])["digit"]
        return lambda logits, rows: soft_loss(
            logits, said.lookup(rows).to(logits.device).probs(TEMPERATURE), TEMPERATURE
        )
    weights = load_file(job["teacher"])
    live = teacher(len(weights["2.bias"])).to(images.device).eval()
    live.load_state_dict(weights)

    def loss(logits, rows):
        with torch.no_grad():
            probs = (live(images[rows]) / TEMPERATURE).softmax(1)
        return soft_loss(logits, probs, TEMPERATURE)

    return loss


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("teacher", type=Path, help="the teacher's weights, which build.py keeps beside the cache")
    parser.add_argument("--data", default=HUB, help="the folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 10, 30], help="of a student from the cache")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data, weights = whole(options.data), options.teacher.resolve()
    common = of_cache(options.cache) | {"data": data, "teacher": str(weights), "batch": BATCH}
    jobs = {name: common | kind | {"kind": name} for name, kind in KINDS.items()}
    seeds = list(range(FIRST_SEED, FIRST_SEED + options.seeds))
    folder = options.cache.with_name(f"{options.cache.name}-equal-time")
    compare(folder, jobs, train, lambda path: build(path, data, weights), options.epochs, seeds, "test errors")


if __name__ == "__main__":
    main()
