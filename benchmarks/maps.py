"""How fast maps are read from Zarr shards: random batches of segmentation maps and of feature maps.

Beside one numpy.memmap gather of the same maps. A module that answers with random maps stands for the teacher.

    pip install -c constraints.txt -e ".[hf]"
    python benchmarks/maps.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from timing import alternate, machine, ratio, table

import softcache

BATCH, FRAGMENT = 32, 128
KINDS = {
    "segmentation, [21, 64, 64] float16": {
        "kind": "segmentation",
        "classes": 21,
        "size": [64, 64],
        "activation": "softmax",
        "value_kind": "logits",
    },
    "features, [112, 14, 14] float16": {"kind": "features", "shape": [112, 14, 14]},
}
MODEL = """
import torch

class Random(torch.nn.Module):
    def forward(self, ids):
        made = torch.Generator().manual_seed(int(ids[0]))
        shapes = {"a": (21, 64, 64), "b": (112, 14, 14)}
        return {name: torch.randn(len(ids), *shape, generator=made) for name, shape in shapes.items()}

def preprocess(sample):
    return torch.tensor(sample["x"])

def samples(count):
    return {"id": list(range(count)), "x": list(range(count))}
"""


def build(folder: Path, rows: int) -> softcache.Cache:
    """Build a cache with both kinds of maps."""
    (folder / "model.py").write_text(MODEL)
    recipe = {
        "transfer_set": {
            "source": {"type": "python", "callable": "model:samples", "arguments": {"count": rows}},
            "id": "id",
        },
        "teachers": {"t": {"model": "model:Random", "preprocess": "model:preprocess", "reads": ["x"]}},
        "tasks": {
            name: task | {"teachers": ["t"], "store": {"format": "zarr"}}
            for name, task in zip("ab", KINDS.values(), strict=True)
        },
        "build": {"batch_size": BATCH, "fragment_rows": FRAGMENT},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    softcache.build(folder / "recipe.yaml", folder / "cache")
    return softcache.open(folder / "cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = build(folder, arguments.rows)
        for target, title in zip("ab", KINDS, strict=True):
            readable, path = cache[target], folder / f"{target}.bin"
            with open(path, "wb") as file:
                for begin in range(0, arguments.rows, FRAGMENT):
                    file.write(readable.read(slice(begin, begin + FRAGMENT)).values.numpy().tobytes())
            mapped = np.memmap(path, np.float16, "r", shape=(arguments.rows, *readable.task.shape))
            random = np.random.default_rng(0)
            batches = np.array_split(random.permutation(arguments.rows), arguments.rows // BATCH)
            contestants = _contestants(mapped, readable, batches)
            for warm in contestants.values():
                warm()
            seconds = alternate(contestants, arguments.rounds)
            for contestant, taken in seconds.items():
                speed = ratio(seconds, contestant, "numpy.memmap")
                each = 1000 * float(np.median(taken)) / len(batches)
                rows.append([title, contestant, f"{each:.2f}", f"{speed:.2f}"])
    print(machine())
    print(table(["maps", f"a batch of {BATCH}", "ms", "speed beside memmap"], rows))


def _contestants(
    mapped: np.memmap, readable: softcache.Target, batches: list[np.ndarray]
) -> dict[str, Callable[[], object]]:
    def gather() -> None:
        for batch in batches:
            mapped[batch]

    def read() -> None:
        for batch in batches:
            readable.read(batch)

    def lookup() -> None:
        for batch in batches:
            readable.lookup(batch)

    return {"numpy.memmap": gather, "softcache, `read`": read, "softcache, `lookup`": lookup}


if __name__ == "__main__":
    main()
