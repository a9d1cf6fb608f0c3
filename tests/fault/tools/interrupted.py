"""Builds that are cut off: how to kill one after any step, and what must be true of the cache then and after it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from conftest import Workshop
from tqdm import tqdm

import softcache
from softcache.errors import FormatError, IncompleteCache
from softcache.store.files import connect, local
from softcache.store.gc import collect
from softcache.store.layout import CARD, MARKER, TEMPORARY
from softcache.store.state import read_state

CANARIES = 2 * 2 * 2  # rows, of the first and the last finished fragment, of each of two targets
Tree = dict[str, bytes]
Step = Callable[[str, str], None]

FORKING = multiprocessing.get_context("forkserver")  # pytest's own process has threads by now
FORKING.set_forkserver_preload(["pytest", "pandas", "numpy.random", "softcache.builder.build"])


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a function of a module in another process."""
    process = FORKING.Process(target=function, args=arguments)
    process.start()
    return process


def run(function: Callable[..., None], *arguments: Any) -> int | None:
    """Run a function of a module in another process; return its exit status."""
    process = start(function, *arguments)
    process.join()
    return process.exitcode


def build(recipe: Path, cache: Path, after: Step | None = None) -> None:
    """Build; `after` gets the kind of each step and its path in the cache, once it has really been taken."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    if after is not None:
        instrument(os.fspath(cache), after)
    softcache.build(recipe, cache)


def instrument(cache: str, after: Step) -> None:
    """Wrap what `softcache.store.files.local` does to files."""

    def note(kind: str, path: str) -> None:
        if path == cache or path.startswith(f"{cache}/"):
            after(kind, os.path.relpath(path, cache))

    def wrap(name: str, kind: str, argument: int) -> None:
        real = getattr(os, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            note(kind, os.fspath(arguments[argument]))
            return result

        setattr(os, name, wrapped)

    for name, argument in {"mkdir": 0, "link": 1, "unlink": 0, "replace": 1}.items():
        wrap(name, name, argument)
    fsync = os.fsync

    def opened(path: str, mode: str = "r", **options: Any) -> Any:
        file = open(path, mode, **options)  # noqa: SIM115
        if mode != "rb":
            note("open", os.fspath(path))
        return file

    def synced(handle: int) -> None:
        path, folder = os.readlink(f"/proc/self/fd/{handle}"), stat.S_ISDIR(os.fstat(handle).st_mode)
        if not folder:
            note("write", path)
        fsync(handle)
        note("fsync folder" if folder else "fsync", path)

    os.fsync = synced
    local.open = opened  # type: ignore[attr-defined]


def record(recipe: Path, cache: Path, log: Path) -> None:
    """Build, and write every step to `log`."""
    with open(log, "w") as file:
        build(recipe, cache, lambda kind, path: print(kind, path, sep="\t", file=file))


def killed(recipe: Path, cache: Path, number: int) -> None:
    """Build, and die right after step `number` (from 0)."""
    taken = 0

    def after(kind: str, path: str) -> None:
        nonlocal taken
        if taken == number:
            os.kill(os.getpid(), signal.SIGKILL)
        taken += 1

    build(recipe, cache, after)


def tree(cache: Path) -> Tree:
    return {p.relative_to(cache).as_posix(): p.read_bytes() for p in cache.rglob("*") if p.is_file()}


def receipts(files: Tree) -> Tree:
    return {p: data for p, data in files.items() if p.startswith("receipts/") and TEMPORARY not in p}


def everything(cache: softcache.Cache) -> dict[str, Any]:
    """Return rows, ids, kept columns, values and `valid` of all targets, bit by bit."""
    found: dict[str, Any] = {"rows": cache.rows.table().to_pydict()}
    for name in cache.targets:
        soft = cache[name].lookup(found["rows"]["sample_id"], found["rows"]["view"])
        found[name] = soft.values.numpy().tobytes(), soft.mask.tolist(), soft.ids.tolist()
    return found


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted build leaves: its files, what each commit reads as, and the steps that it took."""

    files: Tree
    reads: dict[int, dict[str, Any]]
    steps: list[tuple[str, ...]]


def uninterrupted(workshop: Workshop, log: Path) -> Whole:
    """Build in another process, recording."""
    assert run(record, workshop.save(), workshop.cache, log) == 0
    return look(workshop.cache, [tuple(line.split("\t")) for line in log.read_text().splitlines()])


def look(cache: Path, steps: list[tuple[str, ...]]) -> Whole:
    """Return what a finished build has left."""
    commits = range(1, softcache.open(cache).commit.number + 1)
    return Whole(tree(cache), {n: everything(softcache.open(cache, commit=n)) for n in commits}, steps)


def check_commit(cache: Path, reads: dict[int, dict[str, Any]]) -> int:
    """Check that a reader sees nothing yet, or exactly one whole commit; return its number."""
    try:
        seen = softcache.open(cache)
    except IncompleteCache:
        return 0
    except FormatError:
        if (cache / MARKER).exists():
            raise
        return 0
    assert everything(seen) == reads[seen.commit.number]
    return seen.commit.number


def lasting(path: str, data: bytes) -> Any:
    """Return a file's contents without the versions of libraries, which differ between processes."""
    if not path.startswith("receipts/"):
        return data
    body = json.loads(data)
    return {name: value for name, value in body.items() if name not in ("versions", "sha256")}


def resume(workshop: Workshop, whole: Whole) -> None:
    """Build again after an interruption: nothing is done twice, and the result equals the uninterrupted build's."""
    before = tree(workshop.cache)
    assert check_commit(workshop.cache, whole.reads) >= len(whole.reads) - 1
    absent = receipts(whole.files).keys() - receipts(before).keys()
    lacking = [r for r in map(json.loads, map(whole.files.get, absent)) if r["target"] != "rows"]
    left = sum({r["keys_sha256"]: r["rows"] for r in lacking}.values())
    workshop.calls()
    answered, calls = workshop.build().answered, workshop.calls()
    assert answered == left, f"{answered} samples answered, {left} lacked a receipt"
    assert left <= calls <= left + (CANARIES if left else 0), f"{calls} samples predicted for {left}, and canaries"

    after = tree(workshop.cache)
    assert [path for path in after.keys() - whole.files.keys() if TEMPORARY not in path] == []
    for path in before.keys() - {CARD}:
        assert after[path] == before[path], path
    collect(connect(workshop.cache), min_age=0)
    last = tree(workshop.cache)
    # These hold a random id, and a time.
    own = {p for p in whole.files if p == MARKER or p.startswith("commits/")}
    assert last.keys() == whole.files.keys()
    assert [p for p in last if p not in own and lasting(p, last[p]) != lasting(p, whole.files[p])] == []

    assert check_commit(workshop.cache, whole.reads) == len(whole.reads)
    live = [(s.shard.target, s.fragment) for s in read_state(connect(workshop.cache)).live()]
    assert len(live) == len(set(live)) == len(receipts(whole.files))
    verified = softcache.verify(workshop.cache)
    assert verified.ok, verified.problems
