"""How fast batches of soft labels are read, beside one numpy.memmap gather and `datasets`.

    python benchmarks/read.py

200,000 x 1,000 float16 logits in 25 and in 2,500 shards and 100,000 x 768 float16 features in 20 shards, built by
softcache, the same values in a raw file, batches of 256 rows; cold, that is on first touch, and warm. Needs 3 GB of
disk and the extra `hf`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import alternate, beside, machine, ratio, table

import softcache
from softcache.store.checksums import BLOCK_BYTES, block_checksums, sha256

BATCH = 256
MODEL = '''
import numpy as np
import torch


class Stored(torch.nn.Module):
    """A teacher that costs nothing: the rows of a file."""

    def __init__(self, path):
        super().__init__()
        self.rows = np.load(path, mmap_mode="r")

    def forward(self, x):
        return torch.from_numpy(self.rows[x.numpy()])


def samples(rows, step):
    ids = np.arange(rows)
    return {"id": ids if step == 1 else np.random.default_rng(1).integers(-(2**62), 2**62, rows), "x": ids}


def preprocess(sample):
    return torch.tensor(sample["x"])
'''
RECIPE = """
transfer_set:
  source: {{type: python, callable: "model:samples", arguments: {{rows: {rows}, step: {step}}}}}
  id: id
teachers:
  t: {{model: "model:Stored", arguments: {{path: "{path}"}}, preprocess: "model:preprocess", reads: [x], weights: null}}
tasks:
  answer: {{kind: {kind}, {shape}, teachers: [t], store: {{dtype: float16}}}}
build: {{batch_size: 1000, fragment_rows: {fragment}}}
"""


def make(work: Path, name: str, rows: int, width: int, shards: int, *, arbitrary: bool = False) -> tuple[Path, Any]:
    """Write a raw file and build the cache of the same values; return the cache's path and the memory-mapped file."""
    raw = work / f"{rows}x{width}.npy"
    if not raw.exists():
        values = np.lib.format.open_memmap(raw, "w+", np.float16, (rows, width))
        random = np.random.default_rng(0)
        for begin in range(0, rows, 10_000):
            values[begin : begin + 10_000] = random.normal(0, 4, values[begin : begin + 10_000].shape)
        values.flush()
    cache, folder = work / name, work / f"{name}-recipe"
    if not cache.exists():
        folder.mkdir()
        (folder / "model.py").write_text(MODEL)
        kind = "features" if width == 768 else "classification"
        shape = f"shape: [{width}]" if kind == "features" else f"classes: {width}, value_kind: logits"
        recipe = RECIPE.format(
            rows=rows, step=0 if arbitrary else 1, path=raw, kind=kind, shape=shape, fragment=-(-rows // shards)
        )
        (folder / "recipe.yaml").write_text(recipe)
        softcache.build(folder / "recipe.yaml", cache)
    return cache, np.load(raw, mmap_mode="r")


def batches(rows: int, *, shuffled: bool) -> list[np.ndarray[Any, Any]]:
    """Return the row numbers of each whole batch of an epoch."""
    order = np.random.default_rng(2).permutation(rows) if shuffled else np.arange(rows)
    return [order[i : i + BATCH] for i in range(0, rows - BATCH + 1, BATCH)]


def each(read: Callable[[Any], object], keys: list[Any]) -> Callable[[], None]:
    """Return what reads every batch."""

    def run() -> None:
        for key in keys:
            read(key)

    return run


def first_touch(cache: Path, rows: list[Any], *, check: bool) -> tuple[float, float]:
    """Return the seconds until the first batch after opening, and of a batch while nothing has been touched before."""
    began = time.perf_counter()
    target = softcache.open(cache, check=check)["answer"]
    target.read(rows[0])
    opened = time.perf_counter() - began
    began = time.perf_counter()
    each(target.read, rows)()
    return opened, (time.perf_counter() - began) / len(rows)


def compare(title: str, cache: Path, raw: Any, rounds: int, *, shuffled: bool = True) -> list[list[str]]:
    """Return the rows of the table for one cache: read and lookup against the memory-mapped file."""
    rows = batches(len(raw), shuffled=shuffled)[:400]
    ids = np.asarray(softcache.open(cache).rows.table()["sample_id"])
    keys = [torch.from_numpy(ids[r]) for r in rows]
    opened, cold = first_touch(cache, rows, check=True)
    _, unchecked = first_touch(cache, rows, check=False)
    target = softcache.open(cache)["answer"]
    contestants = {
        "numpy.memmap": each(raw.__getitem__, rows),
        "read": each(target.read, rows),
        "lookup": each(target.lookup, keys),
    }
    if not shuffled:
        slices = [slice(int(r[0]), int(r[-1]) + 1) for r in rows]
        contestants["numpy.memmap, slices copied"] = each(lambda part: np.array(raw[part]), slices)
        contestants["read, slices"] = each(target.read, slices)
        large = [slice(begin, begin + 16 * BATCH) for begin in range(0, len(rows) * BATCH, 16 * BATCH)]
        contestants["numpy.memmap, slices of 4,096"] = each(lambda part: np.array(raw[part]), large)
        contestants["read, slices of 4,096"] = each(target.read, large)
    seconds = alternate(contestants, rounds)
    found = []
    for name, of_name in seconds.items():
        base = "numpy.memmap, slices of 4,096" if "4,096" in name else "numpy.memmap"
        per_batch = float(np.median(of_name)) / len(rows)
        figures = (per_batch * 1e6, BATCH / per_batch / 1e6, ratio(seconds, name, base))
        row = [f"{title}: {name}", *(f"{x:.{n}f}" for x, n in zip(figures, (0, 2, 2), strict=True))]
        once = [f"{cold * 1e6:.0f}", f"{unchecked * 1e6:.0f}", f"{opened * 1e3:.0f}"]
        found.append([*row, *(once if name == "read" else ["", "", ""])])
    return found


def against_datasets(cache: Path, rounds: int) -> str:
    """Return how many times as fast `lookup` is as `datasets` in a DataLoader, shuffled."""
    target = softcache.open(cache)["answer"]
    rows = target.to_hf().with_format("torch")
    order = batches(len(rows), shuffled=True)[:20]
    loader = torch.utils.data.DataLoader(rows, batch_sampler=[r.tolist() for r in order])
    seconds = alternate({"datasets": lambda: list(loader), "softcache": each(target.lookup, order)}, rounds)
    return f"{ratio(seconds, 'softcache', 'datasets'):.0f}"


def beside_busy_cores(cache: Path, raw_file: Path, rounds: int) -> list[list[str]]:
    """Return the rows of a table: gathers of shuffled batches on idle cores, and with every core busy otherwise.

    Of the second the mean is taken: threads that wait for each other lose whole time slices, now and then.
    """
    target, raw = softcache.open(cache)["answer"], np.load(raw_file, mmap_mode="c")
    rows = batches(len(raw), shuffled=True)[:200]
    places = [torch.from_numpy(r) for r in rows]
    everything = torch.from_numpy(raw)
    contestants = {
        "numpy.memmap": each(raw.__getitem__, rows),
        "softcache `read`": each(target.read, rows),
        "torch `index_select` of one mapped file": each(lambda r: everything.index_select(0, r), places),
    }
    idle = alternate(contestants, rounds)
    with beside(os.cpu_count() or 1):
        busy = alternate(contestants, 10 * rounds)
    taken = [(name, np.median(idle[name]), np.mean(busy[name])) for name in contestants]
    return [[name, *(f"{float(seconds) / len(rows) * 1e6:.0f}" for seconds in both)] for name, *both in taken]


def checksums(rounds: int) -> str:
    """Return how fast checksums are taken."""
    data = np.random.default_rng(0).integers(0, 256, 64 * BLOCK_BYTES, np.uint8)
    data.flags.writeable = False
    seconds = alternate({"CRC-32C": lambda: block_checksums(data), "SHA-256": lambda: sha256(memoryview(data))}, rounds)
    speeds = [f"{name} {len(data) / float(np.median(times)) / 1e9:.1f} GB/s" for name, times in seconds.items()]
    return f"Checksums of 16 MiB: {', '.join(speeds)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", type=Path, help="keep the files here (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(exist_ok=True)
        few, raw = make(work, "logits-25", 200_000, 1000, 25)
        many, _ = make(work, "logits-2500", 200_000, 1000, 2500)
        arbitrary, _ = make(work, "logits-ids", 200_000, 1000, 25, arbitrary=True)
        features, raw_features = make(work, "features-20", 100_000, 768, 20)
        print(machine(), end="\n\n")
        found = [
            *compare("25 shards, shuffled", few, raw, arguments.rounds),
            *compare("25 shards, sequential", few, raw, arguments.rounds, shuffled=False),
            *compare("25 shards, arbitrary ids", arbitrary, raw, arguments.rounds),
            *compare("2,500 shards, shuffled", many, raw, arguments.rounds),
            *compare("features, shuffled", features, raw_features, arguments.rounds),
        ]
        head = [
            "what",
            "us a batch",
            "million rows/s",
            "ratio to memmap",
            "first touch, us a batch",
            "unchecked",
            "first batch, ms",
        ]
        print(table(head, found), end="\n\n")
        found = beside_busy_cores(few, work / "200000x1000.npy", arguments.rounds)
        print(table(["gather, us a batch", "idle cores, median", "busy cores, mean"], found), end="\n\n")
        print(checksums(arguments.rounds))
        times = against_datasets(few, max(arguments.rounds // 5, 3))
        print(f"`lookup` against `datasets` in a DataLoader: {times} times as fast.")


if __name__ == "__main__":
    main()
