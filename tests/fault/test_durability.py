"""A power cut at any step: the order of writes, and what a disk may hold then (docs/format.md, section 9)."""

import contextlib
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop
from disk import Disk, Event, Inode, Trace, folder_of

import softcache
from softcache.errors import FormatError, IncompleteCache
from softcache.store.documents import load_document
from softcache.store.files import connect
from softcache.store.layout import CARD, MARKER, TEMPORARY, commit_path
from softcache.store.plan import plan_path, read_plan_chain
from softcache.store.state import read_state

ROOT = "new/folder/cache"
LIMITS = (20, None)


@dataclass
class Build:
    """Two commits' trace; `second` is where the second build began."""

    workshop: Workshop
    events: list[Event]
    second: int
    contents: dict[int, dict[str, Any]]

    def disk(self, steps: int) -> Disk:
        disk = Disk()
        for event in self.events[:steps]:
            disk.apply(event)
        return disk

    def resume(self, top: Path, steps: int) -> None:
        for limit in LIMITS if steps < self.second else LIMITS[1:]:
            softcache.build(self.workshop.save(), top / ROOT, limit=limit)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    workshop = Workshop(tmp_path_factory.mktemp("durability"))
    top = workshop.folder.parent / "disk"
    top.mkdir()
    workshop.cache = top / ROOT
    starts, contents = [], {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        trace = Trace(top, monkeypatch)
        for number, limit in enumerate(LIMITS, 1):
            starts.append(len(trace.events))
            workshop.build(limit=limit)
            contents[number] = everything(workshop.cache)
    return Build(workshop, trace.events, starts[1], contents)


def everything(path: Path, commit: int | None = None) -> dict[str, Any]:
    """All rows, and all values by id."""
    cache = softcache.open(path, commit=commit)
    rows = cache.rows.table().to_pydict()
    soft = {name: cache[name].lookup(rows["sample_id"]) for name in cache.targets}
    return {"rows": rows} | {n: (s.values.numpy().tobytes(), s.mask.tolist(), s.ids.tolist()) for n, s in soft.items()}


def published(events: list[Event]) -> Iterator[tuple[int, str]]:
    """Where each file got its final name."""
    return ((i, e.to) for i, e in enumerate(events) if e.what in ("link", "replace"))


def test_every_file_is_written_in_order(build: Build) -> None:
    """And nothing is written in another way: the trace, replayed, is what lies on the disk."""
    events, orders = build.events, {"link": ["link", "unlink", "fsync"], "replace": ["replace", "fsync"]}
    for at, path in published(events):
        temporary, folder = events[at].path, folder_of(path)
        assert os.path.basename(temporary).startswith(TEMPORARY)
        assert folder_of(temporary) == folder
        mine = [e for e in events if temporary in (e.path, e.to)]
        after = next(i for i in count(at) if events[i].what == "fsync" and events[i].path == folder)
        order = orders[events[at].what]
        assert [e.what for e in mine] == ["create", "write", "fsync", *order[:-1]], path
        assert [e.what for e in events[at : after + 1] if e in mine or e.path == folder] == order, path
    for at, event in enumerate(events):
        if event.what == "mkdir":
            inside = next(i for i in count(at + 1) if f"{events[i].path}/".startswith(f"{event.path}/"))
            assert Event("fsync", folder_of(event.path)) in events[at:inside], event.path
    top = build.workshop.folder.parent / "disk"
    there = {p.relative_to(top).as_posix(): p.read_bytes() for p in top.rglob("*") if p.is_file()}
    names = {n: v[-1] for n, v in build.disk(len(events)).names.items() if isinstance(v[-1], Inode)}
    assert {n: inode.contents[-1] for n, inode in names.items()} == there
    assert there.keys() == {path for _, path in published(events)}
    print(f"\n{len(events):,} operations, {len(there)} files, each durable before it is relied upon")


def named_by(path: Path, number: int) -> set[str]:
    """All that a commit needs."""
    files = connect(path)
    state = read_state(files, number)
    commit, live = state.commit, list(state.live())
    named = {
        MARKER,
        *(manifest.path for manifest in commit.manifests.values()),
        *(f.path for f in commit.index),
        *(f.path for s in live for f in s.shard.files),
    }
    named |= {plan_path(head) for head in read_plan_chain(files, commit.plan)}
    keys = [(s.shard.target, s.shard.unit_key) for s in live]
    return (
        named
        | {f"receipts/{target}/{key[:2]}/{key}.json" for target, key in keys}
        | {commit_path(n) for n in range(1, number)}
    )


def undurable(disk: Disk, events: list[Event], cache: Path) -> Iterator[str]:
    """Go on with a disk; yield what a receipt, a commit or a card relies on when it appears, and may yet vanish."""
    for event in events:
        folder, _, name = event.to.removeprefix(f"{ROOT}/").rpartition("/")
        needed: set[str] = set()
        if event.what == "link" and folder.startswith("receipts/"):
            needed = {f["path"] for f in load_document((cache / folder / name).read_bytes(), name)["files"]} | {MARKER}
        elif event.what == "link" and folder.startswith("commits/"):
            needed = named_by(cache, int(name[:20]))
        elif event.what == "replace" and name == CARD:
            card = disk.names[event.path][-1].contents[-1]
            needed = {commit_path(int(number)) for number in re.findall(rb"at commit (\d+)", card)}
        yield from (f"{event.to} before {n}" for n in needed if disk.certain(f"{ROOT}/{n}") is None)
        disk.apply(event)


def test_nothing_names_what_may_vanish(build: Build) -> None:
    assert list(undurable(Disk(), build.events, build.workshop.cache)) == []


def test_a_killed_builder_leaves_nothing_that_the_next_only_believes(
    build: Build, many: Callable[[int, int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a link and the fsync of its folder: a process sees the name, a power cut still takes it away."""
    steps = [i + 1 for i, path in published(build.events) if TEMPORARY not in path]
    last = many(6, len(steps))  # a build's last receipts, and its commit, are what nothing else makes durable later
    chosen = sorted({*[s for s in steps if s <= build.second][-last:], *steps[-last:]})
    found: dict[int, list[str]] = {}
    for step in chosen:
        disk, top = build.disk(step), tmp_path / str(step)
        disk.write(top, lambda values: values[-1], lambda contents: contents[-1])
        with monkeypatch.context() as patch:
            trace = Trace(top, patch)
            build.resume(top, step)
        wrong = list(undurable(disk, trace.events, top / ROOT))
        wrong += [n for n in map(commit_path, build.contents) if disk.certain(f"{ROOT}/{n}") is None]
        found |= {step: wrong} if wrong else {}
        shutil.rmtree(top)
    print(f"\n{len(chosen)} builders killed before an fsync, {len(found)} commits on what is not durable")
    assert not found, found


def cut(generator: random.Random, contents: list[bytes]) -> bytes:
    """Some of what was written since the last fsync, or all, or nothing; all if that was then."""
    chosen = generator.choice(contents)
    return chosen if len(contents) == 1 else chosen[: generator.choice([0, 9, len(chosen)])]


@pytest.mark.parametrize("how", ["lost", "kept", "either"])
def test_power_cut(build: Build, many: Callable[[int, int], int], tmp_path: Path, how: str) -> None:
    """All that is uncertain is lost, or its name is kept and its content lost, or each has any state it may have."""
    steps = range(len(build.events) + 1)
    chosen = sorted(random.Random(how).sample(steps, min(many(20, len(steps)), len(steps))))
    for step in chosen:
        generator, disk, top = random.Random(step), build.disk(step), tmp_path / str(step)
        name = {"lost": lambda v: v[0], "kept": lambda v: v[-1], "either": generator.choice}[how]
        content = partial(cut, generator) if how == "either" else lambda contents: contents[0]
        disk.write(top, name, content)
        certain = [n for n in build.contents if disk.certain(f"{ROOT}/{commit_path(n)}") is not None]
        number = 0
        with contextlib.suppress(IncompleteCache, FormatError):
            number = softcache.open(top / ROOT).commit.number
        assert number == 0 or everything(top / ROOT) == build.contents[number], step
        assert number >= max(certain, default=0), step
        build.resume(top, step)
        assert everything(top / ROOT) == build.contents[len(LIMITS)], step
        assert not (problems := softcache.verify(top / ROOT).problems), (step, problems)
        shutil.rmtree(top)
    print(f"\n{how}: {len(chosen)} power cuts of {len(steps)} survived")
