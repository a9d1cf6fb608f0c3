"""Only gc deletes, and never what a commit or an unfinished build names."""

import os
import time
from pathlib import Path

import pytest
from conftest import Workshop

import softcache
from softcache.errors import (
    FormatError,
    UnsupportedVersion,
)
from softcache.store.documents import dump_document, load_document
from softcache.store.files import connect
from softcache.store.gc import collect, find_garbage


def names(workshop: Workshop, **options: object) -> list[str]:
    return [g.path for g in find_garbage(connect(workshop.cache), **options)]  # type: ignore[arg-type]


def test_nothing_that_is_named_is_garbage(workshop: Workshop) -> None:
    workshop.build(limit=15)
    workshop.build()
    assert names(workshop, min_age=0) == []
    assert names(workshop, min_age=0, abandon=True) == []


def test_orphans(workshop: Workshop) -> None:
    workshop.build()
    orphans = [
        "data/cls@t/.tmp-1",
        "data/cls@t/train-000009-0.arrow",
        "manifests/0.arrow",
        "data/feat@t/x.zarr/values/c/0/0",
    ]
    for name in orphans:
        path = workshop.cache / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (workshop.cache / "notes.txt").write_text("mine")
    assert names(workshop) == []
    for name in orphans:
        os.utime(workshop.cache / name, (time.time() - 90_000,) * 2)
    assert sorted(names(workshop)) == sorted(orphans)
    collect(connect(workshop.cache))
    assert not any((workshop.cache / name).exists() for name in orphans)
    assert not (workshop.cache / "data/feat@t/x.zarr").exists()
    assert (workshop.cache / "notes.txt").exists()
    assert softcache.verify(workshop.cache).ok


def test_unfinished_work_is_kept_until_given_up(workshop: Workshop) -> None:
    workshop.build(limit=10)
    files_before = {p for p in workshop.cache.rglob("*") if p.is_file()}
    workshop.build()
    (workshop.cache / "commits/00000000000000000002.json").unlink()
    unnamed = set((workshop.cache / "manifests").iterdir()) | set((workshop.cache / "index").iterdir())
    assert {workshop.cache / n for n in names(workshop, min_age=0)} == unnamed - files_before
    found = find_garbage(connect(workshop.cache), min_age=0, abandon=True)
    assert found[0].path.startswith("receipts/")
    collect(connect(workshop.cache), min_age=0, abandon=True)
    assert {p for p in workshop.cache.rglob("*") if p.is_file()} == files_before
    assert len(workshop.open().row_numbers) == 10
    workshop.calls()
    assert workshop.build().answered == 30


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
    marker = workshop.cache / "softcache.json"
    marker.write_bytes(dump_document(load_document(marker.read_bytes(), "x") | {"writer_features": ["new"]}))
    with pytest.raises(UnsupportedVersion):
        find_garbage(connect(workshop.cache))


def test_gc_leaves_files_that_a_build_reuses(workshop: Workshop) -> None:
    workshop.build()
    for path in workshop.cache.rglob("*"):
        if path.is_file() and path.parent.name in ("commits", "receipts"):
            path.unlink()
        elif path.is_file():
            os.utime(path, (time.time() - 200_000,) * 2)
    assert len(find_garbage(connect(workshop.cache))) > 20
    workshop.build()
    assert find_garbage(connect(workshop.cache)) == []
    young = [p for p in (workshop.cache / "data").rglob("*") if p.is_file() and p.stat().st_mtime > time.time() - 1000]
    assert len(young) > 20
