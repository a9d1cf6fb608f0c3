"""What `softcache.join` adds to each step of a training loop: a table of students.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import read
import sequences
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import softcache

ROWS, SEQUENCES = 200_000, 512
SHAPES = ((128, 10), (256, 1000))  # of a classifier's batches
INPUTS, UNITS = 64, 800  # of a student whose step takes about 10 ms
TEMPERATURE = 2.0
FIRST, BATCHES_A_ROUND = 10, 20
STEP = 10.0  # ms, of a student for which the goal is set
HEAD = [
    "a batch",
    "loader, ms",
    "join adds, ms",
    "first ten",
    "numpy.memmap, ms",
    "by hand, ms",
    "student, ms",
    "join, of its step",
    f"of {STEP:g} ms",
]
Step = Callable[[torch.Tensor, softcache.SoftBatch], None]
Gather = Callable[[torch.Tensor], object]


class Noting:
    """A loader's batches, and when the last one was ready."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.ready = loader, 0.0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.ready = time.perf_counter()
            yield batch


def training(student: nn.Module) -> Step:
    """Return what trains a student on a batch."""
    optimizer = torch.optim.SGD(student.parameters(), 1e-3)

    def step(given: torch.Tensor, batch: softcache.SoftBatch) -> None:
        (soft,) = batch.values()
        loss = softcache.distillation_loss(student(given), soft, TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(
    title: str,
    loader: DataLoader[Any],
    cache: softcache.Cache,
    step: Step,
    gathers: Sequence[Gather] = (),
    **options: Any,
) -> list[str]:
    """Return a row of the table: what each part of every step takes in a training loop, in this process.

    The gathers take turns, one in each step: none finds what it needs in the CPU's caches because of another.
    """
    noting, parts = Noting(loader), []
    beside: list[list[float]] = [[] for _ in gathers]
    done = time.perf_counter()
    for (ids, given), soft in softcache.join(noting, cache, id=0, **options):
        joined = time.perf_counter()
        if gathers:
            turn = len(parts) % len(gathers)
            gathers[turn](ids)
            beside[turn].append(1e3 * (time.perf_counter() - joined))
        gathered = time.perf_counter()
        step(given, soft)
        ended = time.perf_counter()
        parts.append((noting.ready - done, joined - noting.ready, ended - gathered))
        done = ended
    each = [[1e3 * seconds for seconds in part] for part in zip(*parts, strict=True)]
    loading, added, trained = (median(part[FIRST:]) for part in each)
    figures = [f"{loading:.2f}", f"{added:.2f}", f"{mean(each[1][:FIRST]):.2f}"]
    figures += [f"{median(each[FIRST:]):.2f}" for each in beside] or ["", ""]
    figures.append(f"{trained:.2f}")
    return [title, *figures, f"{added / trained:.1%}", f"{added / STEP:.1%}"]


def shuffled(data: TensorDataset, size: int, batches: int) -> DataLoader[Any]:
    return DataLoader(data, size, sampler=RandomSampler(data, replacement=True, num_samples=size * batches))


def classifier(work: Path, batches: int, size: int, classes: int) -> list[str]:
    """Return the row of a classifier with batches of `size` rows of float16 logits, in random order."""
    folder, raw = read.make(work, f"logits-{classes}", ROWS, classes, 25)
    cache = softcache.open(folder)
    data = TensorDataset(torch.arange(ROWS), torch.randn(ROWS, INPUTS))
    layers = [nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Linear(UNITS, UNITS), nn.ReLU(), nn.Linear(UNITS, classes)]
    step = training(nn.Sequential(*layers))

    places = {number: (number + ROWS // 2) % ROWS for number in range(ROWS)}

    def memmap(ids: torch.Tensor) -> object:
        return raw[((ids + ROWS // 2) % ROWS).numpy()]  # as many rows, but others, which are not in the CPU's cache

    def by_hand(ids: torch.Tensor) -> object:
        return torch.from_numpy(raw[[places[each] for each in ids.tolist()]])

    title = f"{size} rows, {classes:,} classes"
    return measure(title, shuffled(data, size, batches), cache, step, (memmap, by_hand))


def language_model(work: Path, batches: int) -> Iterator[list[str]]:
    """Yield the rows of a language model: eight sequences of 513 tokens, top 64, without and with their tokens."""
    cache = sequences.build(work / "sequences", SEQUENCES, sequences.LENGTH)
    tokens = cache["lm"].read(range(SEQUENCES)).tokens
    loader = shuffled(TensorDataset(torch.arange(SEQUENCES), tokens), sequences.BATCH, batches)
    layers = [nn.Embedding(sequences.CLASSES, 64), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, sequences.CLASSES)]
    step = training(nn.Sequential(*layers))
    title = f"{sequences.BATCH} x {sequences.LENGTH} positions, top {sequences.K}"
    yield measure(title, loader, cache, step)
    yield measure(f"{title}, tokens compared", loader, cache, step, input_ids=1)


def lookups(work: Path, rounds: int) -> list[list[str]]:
    """Return the rows of the table."""
    batches = FIRST + BATCHES_A_ROUND * rounds
    return [*(classifier(work, batches, *shape) for shape in SHAPES), *language_model(work, batches)]
