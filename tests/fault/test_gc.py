"""Only gc deletes, and never what a commit or an unfinished build names."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import FormatError, IncompleteCache
from softcache.store.card import write_card
from softcache.store.commits import publish
from softcache.store.condemned import write_condemned
from softcache.store.documents import load_document
from softcache.store.files import connect
from softcache.store.gc import collect, find_garbage
from softcache.store.state import read_state
from softcache.store.writer import Writer


def names(workshop: Workshop, **options: object) -> list[str]:
    return [g.path for g in find_garbage(connect(workshop.cache), **options)]  # type: ignore[arg-type]


def test_nothing_that_is_named_is_garbage(workshop: Workshop) -> None:
    workshop.build(limit=15)
    workshop.build()
    assert names(workshop, min_age=0) == []
    assert names(workshop, min_age=0, abandon=True) == []


def age(path: Path) -> None:
    """Make a file two days old."""
    os.utime(path, (time.time() - 2 * 86_400,) * 2)


def test_only_what_a_cache_wrote_is_garbage(workshop: Workshop) -> None:
    """Names and places that are the format's own, and none of the user's, however old they are."""
    workshop.build()
    shard = next((workshop.cache / "data/cls@t").rglob("*.arrow"))
    chunk = next((workshop.cache / "data/feat@t").rglob("values/c/0/0"))
    folder = chunk.parents[3]
    left = [
        str(shard.relative_to(workshop.cache)).replace(shard.stem[-8:], "0" * 8),
        str(chunk.relative_to(workshop.cache)).replace(folder.stem[-8:], "0" * 8),
        f"{shard.parent.relative_to(workshop.cache)}/.tmp-{'0' * 32}",
        f"manifests/00/{'0' * 64}.arrow",
        f"index/00/{'0' * 64}-e12.arrow",
        f"condemned/00/{'0' * 64}.arrow",
        f"commits/000/.tmp-{'0' * 32}",
        f".tmp-{'0' * 32}",
    ]
    own = [
        "notes.txt",
        "data/train.csv",
        "data/cls@t/README.md",
        f"data/cls@t/{shard.parent.name}/train-000009-0.arrow",
        f"data/cls@t/999/train-000009-{'0' * 64}.arrow",
        f"data/my data/00/train-000000-{'0' * 64}.arrow",
        "data/.tmp-1",
        "manifests/mine.arrow",
        "plan/.gitkeep",
        f"receipts/{'0' * 64}.json",
        f"receipts/00/{'0' * 64}.json",
        f"manifests/01/{'0' * 64}.arrow",
        f"commits/.tmp-{'0' * 32}",
        f"commits/{'0' * 64}.arrow",
        f"{folder.relative_to(workshop.cache)}/notes/mine.txt",
        ".git/objects/.tmp-1",
        f"other/.tmp-{'0' * 32}",
    ]
    for name in (*left, *own):
        path = workshop.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert names(workshop) == []
    for name in (*left, *own):
        age(workshop.cache / name)
    assert sorted(names(workshop)) == sorted(left)
    collect(connect(workshop.cache))
    assert not any((workshop.cache / name).exists() for name in left)
    assert not (workshop.cache / left[1]).parents[2].exists(), "an empty folder would look like a shard"
    assert all((workshop.cache / name).read_bytes() == b"x" for name in own)
    assert names(workshop, min_age=0) == []


def test_unfinished_work_is_kept_until_given_up(workshop: Workshop) -> None:
    workshop.build(limit=10)
    files_before = all_files(workshop)
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000002.json").unlink()
    unnamed = set((workshop.cache / "manifests").rglob("*.arrow")) | set((workshop.cache / "index").rglob("*.arrow"))
    assert {workshop.cache / n for n in names(workshop, min_age=0)} == unnamed - files_before
    collect(connect(workshop.cache), abandon=True)
    added = {p.relative_to(workshop.cache).parts[0] for p in all_files(workshop) - files_before}
    assert added == {"commits", "condemned", "manifests", "index"}, "young files that no receipt names stay"
    assert len(workshop.open().row_numbers) == 10
    workshop.calls()
    assert workshop.build().answered == 30
    assert softcache.verify(workshop.cache).ok


def all_files(workshop: Workshop) -> set[Path]:
    return {p for p in workshop.cache.rglob("*") if p.is_file()}


def test_before_the_first_commit(workshop: Workshop) -> None:
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000001.json").unlink()
    before = all_files(workshop)
    for abandon in (False, True):
        with pytest.raises(IncompleteCache, match=r"nothing is committed yet.*delete the folder to give it up"):
            collect(connect(workshop.cache), min_age=0, abandon=abandon)
    assert all_files(workshop) == before


def test_deleting_is_a_commit_that_changes_nothing_else(workshop: Workshop) -> None:
    """What it condemns is gone for good: a collector that was killed leaves it to the next one."""
    workshop.build()
    before = workshop.open()
    orphan = workshop.cache / f"manifests/00/{'0' * 64}.arrow"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"x")
    assert [g.path for g in collect(connect(workshop.cache), min_age=0)] == [f"manifests/00/{orphan.name}"]
    after = workshop.open()
    assert (after.commit.number, after.commit.epoch) == (2, 2)
    assert after.commit.targets == before.commit.targets
    assert after.commit.manifests == before.commit.manifests
    orphan.write_bytes(b"x")  # as if it had not been deleted
    (garbage,) = collect(connect(workshop.cache))
    assert garbage.why == "condemned before, and not yet deleted"
    assert not orphan.exists()
    assert workshop.open().commit.number == 2
    assert workshop.build().up_to_date
    assert softcache.verify(workshop.cache).ok


def test_a_live_shard_that_is_condemned(workshop: Workshop) -> None:
    """A forged commit condemns what its own manifests name: the next collector would delete it."""
    workshop.build()
    files, first = connect(workshop.cache), workshop.open().commit
    shard = next((workshop.cache / "data/cls@t").rglob("*.arrow")).relative_to(workshop.cache).as_posix()
    condemned = write_condemned(Writer(files), [shard])
    parent = {"number": 1, "sha256": first.sha256}
    forged = replace(first, number=2, parent=parent, epoch=2, condemned=(condemned,), dropped=[])
    assert publish(files, forged) is not None
    write_card(files, read_state(files))
    problems = softcache.verify(workshop.cache).problems
    assert [p.what for p in problems if p.path == shard] == ["named by a commit although it is condemned"]


def test_what_is_condemned_counts_for_nothing(workshop: Workshop) -> None:
    """A build does its units again, in files of other names, though receipts and shards are still there."""
    workshop.build(limit=10)
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000002.json").unlink()
    saved = {path: path.read_bytes() for path in all_files(workshop)}
    assert collect(connect(workshop.cache), min_age=0, abandon=True)
    for path, data in saved.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    workshop.calls()
    assert softcache.status(workshop.cache).complete
    assert workshop.build().answered == 30
    named = [f.path for live in read_state(connect(workshop.cache)).live() for f in live.shard.files]
    assert sum("-e2." in path for path in named) > len(named) / 2
    assert softcache.verify(workshop.cache).ok
    gone = {g.path for g in collect(connect(workshop.cache))}
    assert len(gone) > 10
    assert not gone & set(named)
    assert softcache.verify(workshop.cache).ok
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)


def test_a_receipt_that_loses_its_shard(workshop: Workshop) -> None:
    """Its writer slept between the shard and the receipt while the shard was condemned: the unit is done again."""
    workshop.build(limit=10)
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000002.json").unlink()
    receipts = [p for p in (workshop.cache / "receipts").rglob("*.json") if b'"target": "cls@t"' in p.read_bytes()]
    (receipt, *_) = sorted(receipts, key=lambda p: p.stat().st_mtime_ns, reverse=True)
    data = receipt.read_bytes()
    receipt.unlink()
    (path,) = (f["path"] for f in load_document(data, "x")["files"])
    shard = (workshop.cache / path).read_bytes()
    assert path in [g.path for g in collect(connect(workshop.cache), min_age=0)]
    receipt.write_bytes(data)
    (workshop.cache / path).write_bytes(shard)  # the collector has not got to it yet
    workshop.calls()
    assert workshop.build().answered == 10
    assert softcache.verify(workshop.cache).ok
    collect(connect(workshop.cache))
    assert not (workshop.cache / path).exists()
    assert softcache.verify(workshop.cache).ok


def test_old_commits_stay_readable(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build()
    first = workshop.open()["cls"].lookup([23]).values
    workshop.samples(40, change=lambda x: x.__setitem__(23, 1.0))
    workshop.build()
    collect(connect(workshop.cache), min_age=0, abandon=True)
    assert softcache.open(workshop.cache, commit=1)["cls"].lookup([23]).values.equal(first)


def test_gc_is_for_caches(tmp_path: Path, workshop: Workshop) -> None:
    photo = tmp_path / "data/photo.jpg"
    photo.parent.mkdir()
    photo.write_text("x")
    os.utime(photo, (0, 0))
    with pytest.raises(FormatError, match="not a softcache cache"):
        collect(connect(tmp_path))
    assert photo.exists()
    workshop.build()


def test_gc_leaves_files_that_a_build_reuses(workshop: Workshop) -> None:
    """It makes them young, so that a later collection does not make it write them again."""
    workshop.build(limit=10)
    named = all_files(workshop)
    workshop.build()
    (workshop.cache / "commits/000/00000000000000000002.json").unlink()
    for path in all_files(workshop) - named:
        if path.parts[-4] == "receipts":
            path.unlink()
        else:
            age(path)
    assert len(find_garbage(connect(workshop.cache))) > 20
    workshop.build()
    assert find_garbage(connect(workshop.cache)) == []
    assert workshop.open().commit.epoch == 0
    reused = [p for p in all_files(workshop) - named if p.parts[-4] != "receipts"]
    assert len(reused) > 20
    assert all(p.stat().st_mtime > time.time() - 1000 for p in reused)
