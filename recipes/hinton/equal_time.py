"""Train students on hard labels, with the teacher beside them, and from the cache, and compare them by the clock.

python recipes/hinton/equal_time.py runs/hinton "runs/hinton-teacher (1200 units, 150 epochs).safetensors" --data FOLDER

The three take turns, an epoch each, so that what else the machine does slows all of them alike. Unlike train.py, this
script cannot go on after a kill, and needs the teacher's weights.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from data import tensors
from safetensors.torch import load_file
from student import student
from teacher import teacher
from torch.nn.functional import cross_entropy
from train import BATCH, MOMENTUM, answers, wrong

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import save
from experiments import device, one_cycle, soft_loss, write_whole
from mnist import HUB

TEMPERATURE, RATES = 20.0, {"hard labels": 0.1, "live teacher": 0.05, "cache": 0.05}


class Student:
    """A student in training, and the seconds that its epochs took."""

    def __init__(self, images, labels, rate, epochs, loss):
        torch.manual_seed(0)
        self.images, self.labels, self.loss = images, labels, loss
        self.model, self.generator = student(800).to(images.device), torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum=MOMENTUM, nesterov=True)
        self.schedule = one_cycle(self.optimizer, rate, epochs * -(-len(images) // BATCH))
        self.seconds, self.errors = [0.0], []

    def epoch(self, tests):
        """Train for an epoch, then count the errors on the test images, which is not timed."""
        began = time.perf_counter()
        for rows in torch.randperm(len(self.images), generator=self.generator).split(BATCH):
            self.optimizer.zero_grad()
            self.loss(self.model(self.images[rows]), rows).backward()
            self.optimizer.step()
            self.schedule.step()
        if self.images.is_cuda:
            torch.cuda.synchronize()
        self.seconds.append(self.seconds[-1] + time.perf_counter() - began)
        self.errors.append(wrong(answers(self.model, tests[0]), tests[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("teacher", type=Path, help="the teacher's weights, which build.py keeps beside the cache")
    parser.add_argument("--data", default=HUB, help="the folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    (images, labels), tests = (tensors(options.data, which, device()) for which in ("train", "test"))
    weights = load_file(options.teacher)
    live = teacher(len(weights["2.bias"])).to(device()).eval()
    live.load_state_dict(weights)
    cache = softcache.open(options.cache)["digit"]

    @torch.no_grad()
    def said(rows):
        return (live(images[rows]) / TEMPERATURE).softmax(1)

    losses = {
        "hard labels": lambda logits, rows: cross_entropy(logits, labels[rows]),
        "live teacher": lambda logits, rows: soft_loss(logits, said(rows), TEMPERATURE),
        "cache": lambda logits, rows: soft_loss(
            logits, cache.lookup(rows).to(device()).probs(TEMPERATURE), TEMPERATURE
        ),
    }
    students = {name: Student(images, labels, RATES[name], options.epochs, loss) for name, loss in losses.items()}
    for _ in range(options.epochs):
        for each in students.values():
            each.epoch(tests)
    report(options, students)


def report(options, students):
    """Print the table, keep the figures, and draw the errors against the seconds."""
    least = min(each.seconds[-1] for each in students.values())
    print(f"\n| student | seconds for {options.epochs} epochs | errors then | epochs in {least:.0f} s | errors then |")
    print("|---|--:|--:|--:|--:|")
    for name, each in students.items():
        done = sum(seconds <= least for seconds in each.seconds[1:])
        then = each.errors[done - 1] if done else ""
        print(f"| {name} | {each.seconds[-1]:.0f} | {each.errors[-1]} | {done} | {then} |")
    found = {name: {"seconds": each.seconds[1:], "errors": each.errors} for name, each in students.items()}
    folder = options.cache.with_name(f"{options.cache.name}-students")
    folder.mkdir(exist_ok=True)
    write_whole(folder / "equal_time.json", lambda path: path.write_text(json.dumps(found)))

    def equal_time(axes):
        for name, each in students.items():
            axes.plot(each.seconds[1:], each.errors, label=name)
        axes.set(xlabel="seconds", ylabel="test errors", yscale="log")

    save(folder, (equal_time,))


if __name__ == "__main__":
    main()
