"""Opening caches of 10 and of 100,000 shards, and looking up among ten million integer and string ids.

    python benchmarks/scale.py

The caches of many ids are built by softcache, four float16 features a row; that of 100,000 shards has a built one's
shards listed again and again in its manifest. Every measurement is made in a fresh process. Takes some ten minutes,
nearly all of it building; needs 4 GB of disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import machine, table

import softcache
from softcache.store.commits import StoredFile, publish
from softcache.store.files import connect
from softcache.store.index import dump_segment
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import dump_manifest
from softcache.store.shards import put_file
from softcache.store.state import read_state
from softcache.store.writer import Writer

MODEL = """
import numpy as np
import torch


class Features(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x, x + 1, x + 2, x + 3], 1).float() % 1000


def samples(rows, kind):
    ids = np.arange(rows) if kind == "dense" else np.random.default_rng(0).permutation(10 * rows)[:rows]
    return {"id": [f"sample-{i:012d}" for i in ids] if kind == "strings" else ids, "x": ids}


def preprocess(sample):
    return torch.tensor(sample["x"])
"""
RECIPE = """
transfer_set:
  source: {{type: python, callable: "model:samples", arguments: {{rows: {rows}, kind: {kind}}}}}
  id: id
teachers:
  t: {{model: "model:Features", preprocess: "model:preprocess", reads: [x], weights: null}}
tasks:
  features: {{kind: features, shape: [4], teachers: [t]}}
build: {{batch_size: 4096, fragment_rows: {fragment}}}
"""
OPEN = """
import json, resource, sys, time
began = time.perf_counter()
import softcache
imported = time.perf_counter() - began
softcache.open
memory = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
before, times = memory(), []
for turn in range(5):
    began = time.perf_counter()
    cache = softcache.open(sys.argv[1])
    cache["features"]
    times.append(time.perf_counter() - began)
    if turn == 0:
        used = memory() - before
print(json.dumps([imported, times[0], sorted(times)[2], used]))
"""
LOOKUP = """
import json, sys, time
import numpy as np
import softcache
memory = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
softcache.open
before = memory()
cache = softcache.open(sys.argv[1])
target = cache["features"]
rows = np.random.default_rng(1).integers(0, cache.commit.rows, (2000, 256))
began = time.perf_counter()
target.lookup(target.read(rows[0]).ids)
first, opened = time.perf_counter() - began, memory() - before
ids = [target.read(r).ids for r in rows]
times = []
for batch, expected in zip(ids, rows):
    began = time.perf_counter()
    soft = target.lookup(batch)
    times.append(time.perf_counter() - began)
assert np.array_equal(cache.find(ids[-1]), rows[-1])
print(json.dumps([first, opened, float(np.median(times[:200])), float(np.median(times[-200:])), memory() - before]))
"""


def make(work: Path, name: str, rows: int, kind: str, fragment: int) -> Path:
    """Build a cache, unless it is there."""
    folder, cache = work / f"{name}-recipe", work / name
    if not cache.exists():
        folder.mkdir()
        (folder / "model.py").write_text(MODEL)
        (folder / "recipe.yaml").write_text(RECIPE.format(rows=rows, kind=kind, fragment=fragment))
        softcache.build(folder / "recipe.yaml", cache)
    return cache


def repeat(cache: Path, output: Path, shards: int) -> Path:
    """Copy a cache and commit manifests there that list its shards again and again, `shards` in all."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(cache, output)
    files = connect(output)
    state = read_state(files)
    before, by_target = state.commit, {live.shard.target: live for live in state.live()}
    fragments, rows = shards // len(by_target), next(iter(by_target.values())).shard.rows
    out, manifests = Writer(files), {}
    for name, one in by_target.items():
        live = [
            LiveShard(
                shard=dataclasses.replace(one.shard, unit_key=hashlib.sha256(f"{number} {name}".encode()).hexdigest()),
                split=one.split,
                fragment=number,
                first_view=0,
                views=1,
                first_row=number * rows,
            )
            for number in range(fragments)
        ]
        said = None if name == ROWS else state.committed(name)
        manifest = put_file(out, "manifests", dump_manifest(name, live, said))
        manifests[name] = StoredFile(manifest.path, manifest.bytes, manifest.sha256)
    index = put_file(out, "index", dump_segment(np.arange(fragments * rows), np.arange(fragments * rows)))
    commit = dataclasses.replace(
        before,
        number=before.number + 1,
        parent={"number": before.number, "sha256": before.sha256},
        manifests=manifests,
        index=(index,),
        rows=fragments * rows,
        transaction="repeated",
    )
    publish(files, commit)
    return output


def measure(code: str, cache: Path) -> list[float]:
    """Run code in a fresh process; return the figures that it prints."""
    done = subprocess.run([sys.executable, "-c", code, str(cache)], check=True, capture_output=True, text=True)
    return list(map(float, json.loads(done.stdout)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--work", type=Path, help="keep the files here (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(exist_ok=True)
        small = make(work, "small", 500, "dense", 100)
        print(machine(), end="\n\n")
        lines = []
        for shards, cache in ((10, small), (100_000, repeat(small, work / "many", 100_000))):
            imported, first, median, memory = measure(OPEN, cache)
            figures = [f"{imported * 1e3:.0f}", f"{first * 1e3:.0f}", f"{median * 1e3:.1f}", f"{memory / 2**20:.0f}"]
            lines.append([f"{shards:,} shards", *figures])
        head = ["cache", "import softcache, ms", "first open in a process, ms", "open, ms", "memory, MiB"]
        print(table(head, lines), end="\n\n")
        lines = []
        for kind in ("dense", "sparse", "strings"):
            began = time.perf_counter()
            cache = make(work, kind, arguments.rows, kind, arguments.rows // 20)
            built = time.perf_counter() - began
            first, opened, early, late, memory = measure(LOOKUP, cache)
            times = [f"{first * 1e3:.0f}", f"{early * 1e6:.0f}", f"{late * 1e6:.0f}"]
            lines.append(
                [f"{arguments.rows:,} {kind}", *times, *(f"{m / 2**20:.0f}" for m in (opened, memory)), f"{built:.0f}"]
            )
        times = ["first batch, ms", "next 200, us a batch", "last 200 of 2,000"]
        print(table(["ids", *times, "memory after the first, MiB", "after all", "build, s"], lines))


if __name__ == "__main__":
    main()
