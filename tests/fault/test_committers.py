"""Processes that commit to one cache at the same time: nothing is lost, nothing is overwritten."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from conftest import MODEL, Workshop

import softcache
from softcache.builder import build
from softcache.errors import IncompatibleTarget, SoftcacheError
from softcache.store.checksums import sha256
from softcache.store.commits import commit_path, latest_number
from softcache.store.documents import load_document
from softcache.store.files import connect
from softcache.store.state import read_state

IDS = range(4)
NOISY = MODEL.replace("self.scale, ", "self.scale + os.getpid() % 997 * 1e-6, ")
# Children are forked from one process that has imported all this and has run nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["softcache", "softcache.builder.build", "pytest", "yaml"])


def work(pipe: Connection, recipe: Path, cache: Path, builds: Sequence[list[str]]) -> None:
    """In a child: build with each list of overrides; say where it is, and wait there to be told whether to wait on."""
    waits = True

    def pausing(where: str, act: Callable[..., object]) -> Callable[..., object]:
        def paused(*arguments: object) -> object:
            nonlocal waits
            if waits:
                pipe.send(where)
                waits = pipe.recv()
            return act(*arguments)

        return paused

    build.run = pausing("prepared", build.run)  # type: ignore[assignment]
    build.commit = pausing("answered", build.commit)  # type: ignore[assignment]
    try:
        for overrides in builds:
            softcache.build(recipe, cache, overrides)
        pipe.send("built")
    except SoftcacheError as e:
        pipe.send(f"{type(e).__name__}: {e}")


class Builder:
    """A child that builds. It waits where it is `prepared` and where it has `answered`."""

    def __init__(self, recipe: Path, cache: Path, *builds: list[str]) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=work, args=(theirs, recipe, cache, builds or ([],)))
        self._process.start()
        theirs.close()

    def until(self, where: str) -> "Builder":
        said = self._pipe.recv()
        assert said == where, said
        return self

    def go(self) -> "Builder":
        """Let it go on to where it waits next."""
        self._pipe.send(True)
        return self

    def release(self) -> "Builder":
        """Let it go on to its end."""
        self._pipe.send(False)
        return self

    def end(self) -> str:
        said: str = self._pipe.recv()
        self._process.join()
        return said


def small(folder: Path, model: str = MODEL) -> Workshop:
    folder.mkdir()
    workshop = Workshop(folder)
    workshop.write("model.py", model)
    workshop.samples(len(IDS))
    del workshop.recipe["tasks"]["feat"]
    workshop.recipe["build"] = {"batch_size": 4, "fragment_rows": 2}
    return workshop


def test_many_committers(tmp_path: Path, many: Callable[[int, int], int]) -> None:
    """Each makes commits of targets of its own; together they are as many, numbered without gaps."""
    workers, commits = many(4, 16), many(5, 50)
    scales = {f"w{w}@c{c}": 1.0 + w + c / 100 for w in range(workers) for c in range(commits)}
    builds = [[f"tasks.cls.name={name}", f"teachers.t.arguments.scale={s}"] for name, s in scales.items()]
    for number in range(many(1, 20)):
        workshop = small(tmp_path / str(number))
        recipe = workshop.save()
        own = [builds[w * commits : (w + 1) * commits] for w in range(workers)]
        ready = [b.until("prepared") for b in [Builder(recipe, workshop.cache, *mine) for mine in own]]
        began = time.monotonic()
        assert {builder.end() for builder in [builder.release() for builder in ready]} == {"built"}
        seconds = time.monotonic() - began
        check_history(workshop.cache, len(scales))
        cache = workshop.open()
        assert set(cache.targets) == scales.keys()
        for name, scale in scales.items():
            assert torch.allclose(cache[name].lookup(IDS).values.double(), workshop.answers() * scale, atol=1e-4), name
        assert not (problems := softcache.verify(workshop.cache, ("full", "quick")[many(0, 1)]).problems), problems
        print(f"\n{workers} x {commits} commits in {seconds:.1f} s, each there once")


def check_history(path: Path, commits: int) -> None:
    """Each commit adds one target to its parent's, and names its parent."""
    files = connect(path)
    assert latest_number(files) == commits
    parent, manifests = None, {}
    for number in range(1, commits + 1):
        data = files.read(commit_path(number))
        body = load_document(data, commit_path(number))
        assert body["parent"] == parent
        assert manifests.items() < body["manifests"].items(), "those of before, with the manifests that they had"
        assert len(body["manifests"]) == number + 1
        parent, manifests = {"number": number, "sha256": sha256(data)}, body["manifests"]


def test_other_weights_under_one_name(tmp_path: Path) -> None:
    """Both have answered when both commit: one wins, the other is told what contradicts it."""
    shops, cache = [small(tmp_path / name) for name in "ab"], tmp_path / "cache"
    shops[1].weights(1)
    prepared = [b.until("prepared") for b in [Builder(shop.save(), cache) for shop in shops]]
    answered = [b.until("answered") for b in [b.go() for b in prepared]]
    said = [b.end() for b in [b.release() for b in answered]]
    winner, loser = shops if said[0] == "built" else shops[::-1]
    (message,) = (s for s in said if s != "built")
    assert message.startswith("CommitConflict")
    target = softcache.open(cache)["cls"]
    assert torch.allclose(target.lookup(IDS).values.double(), winner.answers(), atol=1e-5)
    loser.build()
    prints = [t.provenance["fingerprint"][:12] for t in (target, loser.open()["cls"])]
    with pytest.raises(IncompatibleTarget) as caught:
        softcache.build(loser.save(), cache)
    for text in (message, str(caught.value)):
        assert f"fingerprint {prints[0]} is stored; the recipe's is {prints[1]}" in text
    assert softcache.verify(cache).ok
    assert softcache.build(winner.save(), cache).up_to_date, "what the loser has left does not keep the winner out"
    assert softcache.open(cache).commit.number == 1


def recorded(cache: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of every file that a receipt names, which are those that it describes."""
    receipts = [load_document(path.read_bytes(), path.name) for path in (cache / "receipts").rglob("*.json")]
    found = {}
    for file in (file for receipt in receipts for file in receipt["files"]):
        found[file["path"]] = ((cache / file["path"]).stat().st_ino, (cache / file["path"]).read_bytes())
        assert sha256(found[file["path"]][1]) == file["sha256"]
    return found


@pytest.mark.parametrize("at_once", [False, True])
def test_one_fragment_with_other_bytes(tmp_path: Path, at_once: bool) -> None:
    """Of two whose answers differ, the first receipt wins, also where the other is first to commit."""
    workshop = small(tmp_path / "a", NOISY)
    recipe = workshop.save()
    first, second = (b.until("prepared") for b in [Builder(recipe, workshop.cache) for _ in range(2)])
    if at_once:
        for builder in [first.go(), second.go()]:
            builder.until("answered")
        before = recorded(workshop.cache)
    else:
        first.go().until("answered")
        before = recorded(workshop.cache)
        second.go().until("answered")
    assert second.release().end() == "built"
    assert first.release().end() == "built"
    assert recorded(workshop.cache) == before
    shards = (workshop.cache / "data/cls@t").rglob("*.arrow")
    written = {path.relative_to(workshop.cache).as_posix() for path in shards}
    assert len(written) == 4, "both have written a shard of each of the two fragments"
    target = workshop.open()["cls"]
    committed = read_state(connect(workshop.cache)).shards("cls@t")
    assert {str(path) for path in committed.paths} == written & before.keys()
    assert torch.allclose(target.lookup(IDS).values.double(), workshop.answers(), atol=0.01)
    assert softcache.verify(workshop.cache).ok
