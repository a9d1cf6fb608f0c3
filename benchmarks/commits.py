"""What one more target costs in a cache that has many.

python benchmarks/commits.py --targets 1 100 800

Builds a cache with so many targets of one small teacher, then adds targets one at a time, each by a build of its own
(reading the recipe, the transfer set and what is there; the teacher over 1,000 samples; one commit). It also times
`softcache.open` with one lookup, in turns with the builds. Medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import machine

import softcache

MODEL = """
import numpy as np
import torch
from torch import nn


class Small(nn.Module):
    def forward(self, x):
        return {"out": x @ torch.arange(40.0).view(4, 10)}


def samples():
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    return {"id": np.arange(1000), "x": x}


def preprocess(sample):
    return torch.as_tensor(sample["x"])
"""
RECIPE = """
transfer_set: {{source: {{type: python, callable: "model:samples"}}, id: id}}
teachers: {{t: {{model: "model:Small", preprocess: "model:preprocess", reads: [x]}}}}
tasks:
{tasks}
"""
TASK = "  {name}: {{kind: classification, classes: 10, value_kind: logits, teachers: [t], output: out}}"


def build(folder: Path, cache: Path, names: list[str]) -> float:
    """Build some targets; return the seconds that it took."""
    (folder / "recipe.yaml").write_text(RECIPE.format(tasks="\n".join(TASK.format(name=name) for name in names)))
    began = time.perf_counter()
    softcache.build(folder / "recipe.yaml", cache)
    return time.perf_counter() - began


def lookup(cache: Path) -> float:
    began = time.perf_counter()
    softcache.open(cache)["first0"].lookup(np.arange(100))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 100, 800])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "model.py").write_text(MODEL)
        caches = {count: folder / f"cache{count}" for count in arguments.targets}
        for count, cache in caches.items():
            build(folder, cache, [f"first{i}" for i in range(count)])
        adding: dict[int, list[float]] = {count: [] for count in caches}
        opening: dict[int, list[float]] = {count: [] for count in caches}
        for number in range(arguments.rounds):
            for count, cache in caches.items():
                adding[count].append(build(folder, cache, [f"more{number}"]))
                opening[count].append(lookup(cache))
        print(machine(), end="\n\n")
        print("| targets in the cache | a build of one more | open and one lookup |\n|--:|--:|--:|")
        for count in caches:
            added, opened = statistics.median(adding[count]), statistics.median(opening[count])
            print(f"| {count:,} | {added:.2f} s | {1000 * opened:.1f} ms |")


if __name__ == "__main__":
    main()
