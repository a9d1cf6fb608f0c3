"""How fast a batch of 256 stored soft-label rows is read: softcache beside what one would otherwise use.

All store the same random rows of 1,000 float16 numbers, and give each batch as the same torch tensor, in the order
asked for. They take turns in one process; rates and ratios are medians over the rounds. Every row has been read once
before: the files are in the page cache, and softcache has compared its checksums. How fast that first pass was is
printed below. The time to write ends when the files are on the disk, 22 KB a row in all. A peer that is not installed
is left out. Torch's threads wait for one another: where the machine has other work, set OMP_NUM_THREADS=1.

pip install -c constraints.txt -e ".[bench]"
pip install -c constraints.txt --no-deps litdata lightning-utilities mosaicml-streaming  # they ask for torchvision
python benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib import metadata, util
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from timing import alternate, machine, ratio, table
from torch.utils.data import DataLoader

import softcache

BATCH, CLASSES, PART = 256, 1000, 8192
SECONDS = 0.25  # about as long as each reader reads in each round
BASE = "numpy.memmap"
HEAD = ["reader", "shuffled rows/s", "to memmap", "sequential rows/s", "to memmap", "write rows/s", "bytes a row"]
TEACHER = '''
import numpy as np
import torch


class Stored(torch.nn.Module):
    """Answers the number of a row with that row."""

    def __init__(self, path):
        super().__init__()
        self.rows = np.load(path, mmap_mode="r")

    def forward(self, numbers):
        return torch.from_numpy(self.rows[numbers.numpy()])


def preprocess(sample):
    return torch.tensor(sample["row"])


def samples(rows):
    return {"id": np.arange(rows), "row": np.arange(rows)}
'''

Array = np.ndarray[Any, Any]
Rows = Array | slice
Gather = Callable[[Rows], torch.Tensor]
Steps = Iterator[dict[str, Gather] | None]  # a peer writes, yields, opens what it wrote, and yields its readers


def numbers(rows: Rows) -> Array:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def parts(rows: Array) -> Iterator[tuple[slice, Array]]:
    for begin in range(0, len(rows), PART):
        yield slice(begin, begin + PART), rows[begin : begin + PART]


def fill(stored: Any, rows: Array) -> None:
    for place, part in parts(rows):
        stored[place] = part


def arrow(part: Array) -> pa.Table:
    return pa.table({"values": pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), CLASSES)})


def memmap(rows: np.memmap, folder: Path) -> Steps:
    fill(np.lib.format.open_memmap(folder / "rows.npy", "w+", rows.dtype, rows.shape), rows)
    yield None
    stored = np.load(folder / "rows.npy", mmap_mode="r")
    yield {BASE: lambda rows: torch.from_numpy(stored[rows].copy() if isinstance(rows, slice) else stored[rows])}


def soft(rows: np.memmap, folder: Path) -> Steps:
    (folder / "teacher.py").write_text(TEACHER)
    source = {"type": "python", "callable": "teacher:samples", "arguments": {"rows": len(rows)}}
    teacher = {"model": "teacher:Stored", "arguments": {"path": str(rows.filename)}, "preprocess": "teacher:preprocess"}
    task = {"kind": "classification", "classes": CLASSES, "value_kind": "logits", "teachers": ["stored"]}
    recipe = {
        "transfer_set": {"source": source, "id": "id"},
        "teachers": {"stored": teacher},
        "tasks": {"soft": task | {"store": {"format": "arrow", "dtype": "float16"}}},
        "build": {"batch_size": BATCH, "fragment_rows": 8000},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    softcache.build(folder / "recipe.yaml", folder / "cache")
    yield None
    by_row, by_id = (softcache.open(folder / "cache")["soft"] for _ in range(2))
    yield {
        "softcache, `read(rows)`": lambda rows: by_row.read(rows).values,
        "softcache, `lookup(ids)`": lambda rows: by_id.lookup(numbers(rows)).values,
    }


def hf_datasets(rows: np.memmap, folder: Path) -> Steps:
    from datasets import Dataset, Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    path = str(folder / "rows.arrow")
    with ArrowWriter(features=Features({"values": List(Value("float16"), length=CLASSES)}), path=path) as writer:
        for _, part in parts(rows):
            writer.write_table(arrow(part))
        writer.finalize()
    yield None
    dataset = Dataset.from_file(path).with_format("torch", dtype=torch.float16)
    asked: deque[list[int]] = deque()
    loader = iter(DataLoader(dataset, batch_sampler=iter(asked.popleft, None)))

    def next_of_loader(rows: Rows) -> torch.Tensor:
        asked.append(numbers(rows).tolist())
        return next(loader)["values"]

    yield {"datasets": lambda rows: dataset[rows]["values"], "datasets in a DataLoader": next_of_loader}


def mds(rows: np.memmap, folder: Path) -> Steps:
    # The __init__ of these two import torchvision and transformers, which the format itself does without.
    for name in ("streaming", "streaming.base"):
        sys.modules[name] = util.module_from_spec(util.find_spec(name))
    from streaming.base.dataset import StreamingDataset
    from streaming.base.format import MDSWriter

    with MDSWriter(out=str(folder), columns={"values": f"ndarray:float16:{CLASSES}"}) as writer:
        for row in rows:
            writer.write({"values": row})
    yield None
    dataset = StreamingDataset(local=str(folder), batch_size=BATCH)

    def stack(rows: Rows) -> torch.Tensor:
        return torch.from_numpy(np.stack([dataset[i]["values"] for i in numbers(rows).tolist()]))

    yield {"MDS (mosaicml-streaming)": stack}


def tensors(path: str, begin: int) -> Iterator[torch.Tensor]:
    yield from torch.from_numpy(np.load(path, mmap_mode="r")[begin : begin + PART].copy())


def litdata(rows: np.memmap, folder: Path) -> Steps:
    from litdata import StreamingDataset, optimize

    os.environ |= {f"DATA_OPTIMIZER_{name}CACHE_FOLDER": str(folder / "passing") for name in ("", "DATA_")}
    makes, begins, output = partial(tensors, str(rows.filename)), [*range(0, len(rows), PART)], str(folder / "rows")
    order = {"keep_data_ordered": True, "reorder_files": False}
    optimize(makes, begins, output, chunk_bytes="64MB", num_workers=1, verbose=False, **order)
    yield None
    # By default neighbours are decoded together: several times as fast in order, several times as slow out of it.
    together, alone = StreamingDataset(output), StreamingDataset(output, batch_decode=0)

    def stack(rows: Rows) -> torch.Tensor:
        dataset = together if isinstance(rows, slice) else alone
        return torch.stack([dataset[i] for i in numbers(rows).tolist()])

    yield {"litdata": stack}


def webdataset(rows: np.memmap, folder: Path) -> Steps:
    from webdataset import ShardWriter, WebDataset

    with ShardWriter(str(folder / "%06d.tar"), maxcount=PART, verbose=0) as writer:
        for number, row in enumerate(rows):
            writer.write({"__key__": f"{number:09d}", "f16": row.tobytes()})
    yield None
    samples = WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False).to_tuple("f16")
    decoded = samples.map_tuple(lambda data: np.frombuffer(data, np.float16)).batched(BATCH, partial=False)
    batches = chain.from_iterable(repeat(decoded))
    yield {"webdataset": lambda _: torch.from_numpy(next(batches)[0])}


def lance(rows: np.memmap, folder: Path) -> Steps:
    import lance

    batches = chain.from_iterable(arrow(part).to_batches() for _, part in parts(rows))
    dataset = lance.write_dataset(batches, folder / "rows.lance", schema=arrow(rows[:1]).schema)
    yield None

    def take(rows: Rows) -> torch.Tensor:
        column = dataset.take(numbers(rows).tolist())["values"].combine_chunks()
        return torch.tensor(column.flatten().to_numpy()).view(-1, CLASSES)

    yield {"lance": take}


def zarr(rows: np.memmap, folder: Path) -> Steps:
    import zarr

    layout = {"shape": rows.shape, "dtype": rows.dtype, "chunks": (BATCH, CLASSES), "compressors": None}
    stored = zarr.create_array(str(folder / "rows.zarr"), **layout)
    fill(stored, rows)
    yield None
    yield {"zarr": lambda rows: torch.from_numpy(stored.oindex[rows])}


def h5py(rows: np.memmap, folder: Path) -> Steps:
    import h5py

    with h5py.File(folder / "rows.h5", "w") as file:
        fill(file.create_dataset("values", rows.shape, rows.dtype), rows)
    yield None
    stored = h5py.File(folder / "rows.h5")["values"]

    def gather(rows: Rows) -> torch.Tensor:
        if isinstance(rows, slice):
            return torch.from_numpy(stored[rows])
        order = np.argsort(rows)  # h5py takes row numbers in ascending order only
        values = np.empty((len(rows), CLASSES), np.float16)
        values[order] = stored[rows[order]]
        return torch.from_numpy(values)

    yield {"h5py": gather}


PEERS = {
    "memmap": ("numpy", memmap),
    "softcache": ("softcache", soft),
    "datasets": ("datasets", hf_datasets),
    "mds": ("mosaicml-streaming", mds),
    "litdata": ("litdata", litdata),
    "webdataset": ("webdataset", webdataset),
    "lance": ("pylance", lance),
    "zarr": ("zarr", zarr),
    "h5py": ("h5py", h5py),
}


def random_rows(path: Path, count: int) -> np.memmap:
    random = np.random.default_rng(0)
    made = np.lib.format.open_memmap(path, "w+", np.float16, (count, CLASSES))
    for _, part in parts(made):
        part[:] = random.standard_normal(part.shape, np.float32)
    return np.load(path, mmap_mode="r")


def store(steps: Steps, folder: Path) -> tuple[float, int]:
    """Let a peer write into a new folder; return the seconds until all is on the disk, and the bytes there."""
    folder.mkdir()
    began = time.perf_counter()
    next(steps)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began, sum(path.stat().st_size for path in files)


def check(name: str, gather: Gather, asked: list[Rows], truth: Array) -> float:
    """Compare what is read with the rows; return the rows read in a second."""
    seconds = 0.0
    for rows in asked:
        began = time.perf_counter()
        values = gather(rows)
        seconds += time.perf_counter() - began
        if not torch.equal(values, torch.from_numpy(truth[numbers(rows)])) or values.dtype != torch.float16:
            raise SystemExit(f"{name} does not give the rows that were written")
    return len(asked) * BATCH / seconds


def contest(readers: dict[str, Gather], asked: list[Rows], rounds: int) -> dict[str, list[float]]:
    """Return the seconds a row of each reader in each round. Slow ones read fewer batches in a round."""
    works, counts = {}, {}
    for name, gather in readers.items():
        batches = cycle(asked)
        counts[name] = read_for(SECONDS, gather, islice(batches, len(asked)))
        works[name] = partial(read, gather, batches, counts[name])
    return {name: [s / counts[name] / BATCH for s in taken] for name, taken in alternate(works, rounds).items()}


def read_for(seconds: float, gather: Gather, batches: Iterable[Rows]) -> int:
    """Read batches until the time is up; return how many. Counted, not extrapolated from one batch, which may be slow.

    A round of few batches would measure a processor whose caches still hold what the reader before has read.
    """
    ends, count = time.perf_counter() + seconds, 0
    for rows in batches:
        gather(rows)
        count += 1
        if time.perf_counter() >= ends:
            break
    return count


def read(gather: Gather, batches: Iterator[Rows], count: int) -> None:
    for rows in islice(batches, count):
        gather(rows)


def rates(seconds: dict[str, list[float]], name: str) -> list[str]:
    if name not in seconds:
        return ["", ""]
    return [f"{1 / median(seconds[name]):,.0f}", f"{ratio(seconds, name, BASE):.3f}"]


def compare(names: list[str], work: Path, count: int, rounds: int) -> None:
    truth = random_rows(work / "rows.npy", count)
    ordered: list[Rows] = [slice(begin, begin + BATCH) for begin in range(0, count - BATCH + 1, BATCH)]
    shuffled: list[Rows] = [*np.random.default_rng(1).permutation(count)[: len(ordered) * BATCH].reshape(-1, BATCH)]
    readers: dict[str, Gather] = {}
    written, absent, first, versions = {}, [], [], []
    for name in names:
        distribution, peer = PEERS[name]
        try:
            version, steps = metadata.version(distribution), peer(truth, work / name)
            seconds, size = store(steps, work / name)
        except ImportError as e:
            missing = isinstance(e, metadata.PackageNotFoundError)
            absent.append([name, "not installed" if missing else f"does not import: {e}", *[""] * 5])
            continue
        versions.append(f"{distribution} {version}")
        for reader, gather in next(steps).items():
            readers[reader], written[reader] = gather, [f"{count / seconds:,.0f}", f"{size / count:,.0f}"]
            first.append(f"{reader} {check(reader, gather, ordered, truth):,.0f}")
    anyhow = {reader: gather for reader, gather in readers.items() if reader != "webdataset"}
    for reader, gather in anyhow.items():
        check(reader, gather, shuffled[:3], truth)
    by_chance, in_order = contest(anyhow, shuffled, rounds), contest(readers, ordered, rounds)
    lines = [[reader, *rates(by_chance, reader), *rates(in_order, reader), *written[reader]] for reader in readers]
    threads = f"torch {torch.__version__}, torch threads: {torch.get_num_threads()}"
    print(f"{count:,} rows, {machine()}, {threads}\n\n{table(HEAD, lines + absent)}\n")
    print(f"First pass over all rows, in order, rows/s: {'; '.join(first)}.\n\nVersions: {', '.join(versions)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, help="a new folder, which is kept; by default a temporary one")
    parser.add_argument("--only", default=",".join(PEERS), help="names with commas between; memmap is always there")
    arguments = parser.parse_args()
    only = {"memmap", *arguments.only.split(",")}
    if unknown := only - PEERS.keys():
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if arguments.work is not None:
        arguments.work.mkdir(parents=True)
    with tempfile.TemporaryDirectory() if arguments.work is None else nullcontext(arguments.work) as work:
        compare([name for name in PEERS if name in only], Path(work).resolve(), arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
