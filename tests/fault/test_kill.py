"""A build killed at any instant: readers see whole commits, and the same command goes on where it was."""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop
from interrupted import FORKING, build, check_commit, everything, killed, resume, run, start, uninterrupted

import softcache
from softcache.store.layout import CARD, MARKER

ROWS, FIRST, SECOND = 2, 4, 40
LAST = 11  # steps: the commit's own, and the card's
KINDS = ("mkdir", "open", "write", "fsync", "link", "unlink", "fsync folder", "replace")
MIX = """
import numpy as np


class Mix:
    def draw(self, x, rng):
        return {"weight": float(rng.random())}

    def apply(self, x, weight, partner):
        return (weight * np.asarray(x) + (1 - weight) * np.asarray(partner)).astype(np.float32)
"""
Many = Callable[[int, int], int]


class Killing:
    """A cache that is ready for a build, as often as one wants, and what that build leaves when nobody kills it."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.workshop = Workshop(folder)
        self.workshop.recipe["build"] = {"batch_size": ROWS, "fragment_rows": ROWS}
        self.workshop.samples(ROWS * FIRST)
        if commit == "views":
            self.workshop.write("augment.py", MIX)
            self.workshop.recipe["augmentation"] = {"transform": "augment:Mix", "column": "x", "views": 1}
        self.recipe, self.cache, self._ready = self.workshop.save(), self.workshop.cache, folder / "ready"
        if commit == "second":
            self.workshop.build()
            self.cache.rename(self._ready)
            self.workshop.samples(ROWS * (FIRST + SECOND))
        if commit == "views":
            self.workshop.build()
            self.cache.rename(self._ready)
            self.workshop.samples(ROWS * (FIRST + 1))
            self.workshop.recipe["augmentation"]["views"] = 3
            self.workshop.save()
        self.begin()
        self.whole = uninterrupted(self.workshop, folder / "steps")

    def begin(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        if self._ready.exists():
            shutil.copytree(self._ready, self.cache)

    def numbers(self, kind: str, count: int) -> list[int]:
        """Which steps of a kind: about `count` evenly, and those at the commit and the card."""
        found = [n for n, step in enumerate(self.whole.steps) if step[0] == kind]
        last = [n for n in found if n >= len(self.whole.steps) - LAST]
        return sorted({*last, *found[len(found) // count // 2 :: max(1, len(found) // count)]})


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder, in memory where there is such a thing: a kill leaves what is not yet on disk, so fsync may be fast."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["first", "second", "views"])
def killing(request: pytest.FixtureRequest, memory: Path) -> Killing:
    (memory / request.param).mkdir()
    return Killing(memory / request.param, request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_a_step(kind: str, killing: Killing, many: Many) -> None:
    numbers = killing.numbers(kind, many(1, 10_000))
    for number in numbers:
        killing.begin()
        assert run(killed, killing.recipe, killing.cache, number) == -signal.SIGKILL
        resume(killing.workshop, killing.whole)
    print(f"\nkills: {len(numbers):,} right after {kind}, of {len(killing.whole.steps):,} steps, all equal")
    assert numbers


def test_killed_at_random_instants(killing: Killing, many: Many) -> None:
    killing.begin()
    begun = time.monotonic()
    assert run(build, killing.recipe, killing.cache) == 0
    seconds, generator, kills, late = time.monotonic() - begun, random.Random(0), 0, 0
    while kills < many(5, 100):
        killing.begin()
        process = start(build, killing.recipe, killing.cache)
        time.sleep(generator.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            resume(killing.workshop, killing.whole)
        else:
            late += 1
    print(f"\nkills: {kills:,} at random instants of {seconds:.2f} s, all equal; {late:,} came too late")


def test_what_is_named_is_durable(killing: Killing) -> None:
    """What a kill cannot show: at each receipt, commit and card, all bytes and names before it have been synced."""
    synced, pending = False, set()
    for kind, path in killing.whole.steps:
        if kind == "fsync":
            synced = True
        if kind in ("link", "replace"):
            assert synced, path
            assert not (pending and path.startswith(("receipts/", "commits/", CARD))), path
            synced = False
        if kind in ("link", "replace", "mkdir") and path != ".":
            pending.add(os.path.dirname(path) or ".")
        if kind == "fsync folder":
            pending.discard(path)
    assert not pending


def watch(cache: Path, reads: dict[int, dict[str, Any]], parent: Connection) -> None:
    """Open the cache and read all of it, again and again, until the parent says so; send how often each was seen."""
    seen: Counter[int] = Counter()
    try:
        while not parent.poll():
            if (cache / MARKER).exists():
                number = check_commit(cache, reads)
                assert number >= max(seen, default=0), f"commit {number} after {max(seen)}"
                seen[number] += 1
        parent.send(seen)
    except BaseException:  # noqa: BLE001 - whatever it is, the test is to show it
        parent.send(traceback.format_exc())


def test_a_reader_beside_killed_builds(memory: Path, many: Many) -> None:
    """Every commit changes every value, so that two of them cannot be mixed unnoticed."""
    (memory / "read").mkdir()
    killing = Killing(memory / "read", "first")
    workshop, steps, generator = killing.workshop, len(killing.whole.steps), random.Random(0)
    commits = range(1, many(5, 30) + 1)

    def change(number: int) -> None:
        workshop.samples(ROWS * (FIRST + number), change=lambda x: x.__iadd__(number))

    workshop.cache = memory / "uninterrupted"
    for number in commits:
        change(number)
        workshop.build()
    reads = {number: everything(softcache.open(workshop.cache, commit=number)) for number in commits}
    assert len({reads[number]["cls@t"][0][:8] for number in commits}) == len(commits)
    workshop.cache = killing.cache
    shutil.rmtree(killing.cache)
    parent, there = FORKING.Pipe()
    watcher = start(watch, killing.cache, reads, there)
    there.close()
    kills = 0
    for number in commits:
        change(number)
        for _ in range(3):
            kills += run(killed, killing.recipe, killing.cache, generator.randrange(steps)) == -signal.SIGKILL
        workshop.build()
    with contextlib.suppress(BrokenPipeError):  # where the reader has failed and gone; it has said why
        parent.send("enough")
    seen = parent.recv()
    watcher.join()
    assert isinstance(seen, Counter), seen
    print(f"\nreader: {seen.total():,} openings beside {kills:,} kills, {len(seen)} states of {len(commits) + 1} seen")
    assert seen.total() > len(commits)
    assert len(seen) > 2
    assert kills
