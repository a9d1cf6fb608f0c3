"""What a build costs beside the teacher alone, a plain loop that does the same work, and `datasets.map`.

    python benchmarks/build.py

Teachers of about 10 and about 35 milliseconds a batch of 64 (small convolutional nets) and one that costs next to
nothing, each with 1,000 float16 logits a row. Every contestant runs in a process of its own, in alternation; the times
are without imports. Then the growth of memory with the rows. Needs 4 GB of disk and the extra `hf`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import google_crc32c
import numpy as np
import torch
from timing import machine, table

MODEL = '''
import numpy as np
import torch


class Teacher(torch.nn.Module):
    """1,000 logits from 64 numbers seen as an 8 x 8 image, through residual convolutions of 128 channels."""

    def __init__(self, depth):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(1, 128, 3, padding=1)
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(128, 128, 3, padding=1) for _ in range(depth))
        self.last = torch.nn.Linear(128, 1000)

    def forward(self, x):
        x = self.first(x.view(-1, 1, 8, 8))
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.last(x.mean((2, 3)))


class Free(torch.nn.Module):
    """1,000 logits that already exist."""

    def __init__(self):
        super().__init__()
        self.logits = torch.randn(4096, 1000, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        return self.logits[: len(x)]


def samples(rows):
    x = np.random.default_rng(0).normal(size=(rows, 64)).astype(np.float32)
    return {"id": np.arange(rows), "x": x}


def preprocess(sample):
    return torch.from_numpy(sample["x"])
'''
RECIPE = """
transfer_set:
  source: {{type: python, callable: "model:samples", arguments: {{rows: {rows}}}}}
  id: id
teachers:
  t: {{model: "model:{model}", arguments: {arguments}, preprocess: "model:preprocess", reads: [x], weights: null}}
tasks:
  answer: {{kind: classification, classes: 1000, value_kind: logits, teachers: [t], store: {{dtype: float16}}}}
build: {{batch_size: {batch}, fragment_rows: 8192}}
"""
TEACHERS = {
    "small": ("Teacher", {"depth": 3}, 64),
    "medium": ("Teacher", {"depth": 8}, 64),
    "free": ("Free", {}, 1024),
}
BLOCK = 262_144


def batches(rows: int, size: int) -> Iterator[tuple[Any, Any]]:
    """Yield the ids and the collated input of each batch, made as a plain script makes them."""
    import model

    data = model.samples(rows)
    for begin in range(0, rows, size):
        chosen = [{"x": x} for x in data["x"][begin : begin + size]]
        yield data["id"][begin : begin + size], torch.stack([model.preprocess(s) for s in chosen])


def make_teacher(kind: str) -> torch.nn.Module:
    import model

    name, arguments, _ = TEACHERS[kind]
    return getattr(model, name)(**arguments).eval()


def bare(kind: str, rows: int, _: Path) -> None:
    """The teacher on every batch; the answers are dropped."""
    teacher = make_teacher(kind)
    with torch.inference_mode():
        for _ids, x in batches(rows, TEACHERS[kind][2]):
            teacher(x)


def plain(kind: str, rows: int, output: Path) -> None:
    """A careful script: hashes of samples, checks, statistics, checksums, fsync, one file per 8,192 rows."""
    teacher, held = make_teacher(kind), []
    with torch.inference_mode():
        for ids, x in batches(rows, TEACHERS[kind][2]):
            digests = [hashlib.sha256(i.tobytes() + s.numpy().tobytes()).digest() for i, s in zip(ids, x, strict=True)]
            logits = teacher(x)
            stored = logits.half()
            if not torch.isfinite(stored).all():
                raise ValueError("not finite")
            held.append((ids, digests, stored))
            if sum(len(h[0]) for h in held) >= 8192:
                write(output, held)
                held = []
    if held:
        write(output, held)


def write(output: Path, held: list[Any]) -> None:
    """Write one file durably, and a record of it."""
    values = torch.cat([h[2] for h in held]).numpy()
    wide = values.astype(np.float64)
    statistics = [wide.min(), wide.max(), wide.mean(), wide.std()]
    data = values.tobytes() + np.concatenate([h[0] for h in held]).tobytes() + b"".join(d for h in held for d in h[1])
    blocks = [google_crc32c.value(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
    digest = hashlib.sha256(data).hexdigest()
    record = {"sha256": digest, "blocks": blocks, "statistics": [float(s) for s in statistics]}
    name = f"{len(list(output.iterdir())):06d}"
    for path, content in ((output / f"{name}.bin", data), (output / f"{name}.json", json.dumps(record).encode())):
        with open(path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def mapped(kind: str, rows: int, output: Path) -> None:
    """`datasets.map` with the same teacher and batches."""
    import datasets
    import model

    datasets.disable_progress_bars()
    teacher = make_teacher(kind)

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        x = torch.stack([model.preprocess({"x": np.asarray(x, np.float32)}) for x in batch["x"]])
        with torch.inference_mode():
            return {"id": batch["id"], "values": teacher(x).half().numpy()}

    given = datasets.Dataset.from_dict(model.samples(rows))
    kinds = datasets.Features(
        {"id": datasets.Value("int64"), "values": datasets.List(datasets.Value("float16"), length=1000)}
    )
    given.map(
        answer,
        batched=True,
        batch_size=TEACHERS[kind][2],
        remove_columns=["x"],
        features=kinds,
        cache_file_name=str(output / "mapped.arrow"),
    )


def softcache_build(kind: str, rows: int, output: Path) -> None:
    """A whole `softcache.build`."""
    import softcache

    name, arguments, batch = TEACHERS[kind]
    recipe = output.parent / f"{output.name}.yaml"
    recipe.write_text(RECIPE.format(rows=rows, model=name, arguments=json.dumps(arguments), batch=batch))
    softcache.build(recipe, output / "cache")


CONTESTANTS: dict[str, Callable[[str, int, Path], None]] = {
    "teacher alone": bare,
    "plain loop": plain,
    "datasets.map": mapped,
    "softcache": softcache_build,
}


def child(name: str, kind: str, rows: int, output: Path) -> None:
    """Run one contestant; print its seconds, what its anonymous memory rose to beyond the imports, and bytes."""
    import datasets  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow.compute  # noqa: F401

    import softcache.builder.build  # noqa: F401

    sys.path.insert(0, str(output.parent))
    output.mkdir()
    peak, running = [0], True

    def anonymous() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) - int(
            Path("/proc/self/statm").read_text().split()[2]
        )

    def watch() -> None:
        while running:
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.02)

    start = anonymous()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    CONTESTANTS[name](kind, rows, output)
    seconds = time.perf_counter() - began
    running = False
    watcher.join()
    size = sum(p.stat().st_size for p in output.rglob("*") if p.is_file())
    print(json.dumps([seconds, (peak[0] - start) * resource.getpagesize(), size]))


def run(name: str, kind: str, rows: int, work: Path) -> list[float]:
    """Run a contestant in a process of its own."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        Path(folder, "model.py").write_text(MODEL)
        command = [sys.executable, __file__, "--child", name, kind, str(rows), str(Path(folder, "output"))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return list(map(float, json.loads(done.stdout.splitlines()[-1])))


def compare(kind: str, names: list[str], rows: int, rounds: int, work: Path) -> list[list[str]]:
    """Return rows of the table: the contestants in alternation, beside the first one."""
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            found[name].append(run(name, kind, rows, work))
    base = [r[0] for r in found[names[0]]]
    lines = []
    for name in names:
        seconds = [r[0] for r in found[name]]
        ratio = median(s / b for s, b in zip(seconds, base, strict=True))
        peak, size = (median(r[i] for r in found[name]) for i in (1, 2))
        figures = [f"{median(seconds):.2f}", f"{ratio:.2f}", f"{peak / 2**20:.0f}", f"{size / rows:.0f}"]
        lines.append([f"{kind} teacher, {rows:,} rows: {name}", *figures])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, kind, rows, output = arguments.child
        return child(name, kind, int(rows), Path(output))
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        print(machine(), end="\n\n")
        lines = compare("small", ["teacher alone", "softcache", "datasets.map"], 40_000, arguments.rounds, work)
        lines += compare("medium", ["teacher alone", "softcache", "datasets.map"], 20_000, arguments.rounds, work)
        lines += compare("free", ["plain loop", "softcache", "datasets.map"], 200_000, arguments.rounds, work)
        lines += compare("free", ["plain loop", "softcache"], 400_000, 1, work)
        print(table(["what", "seconds", "ratio to the first", "peak memory, MiB", "bytes a row"], lines))


if __name__ == "__main__":
    main()
