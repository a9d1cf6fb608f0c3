"""Repacked caches: the same rows, numbers and bits in shards of another size, read by everything that reads caches."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augmented import Augmented
from click.testing import CliRunner
from conftest import Workshop
from every_kind import Kinds

import softcache
from softcache.cli import main
from softcache.errors import IntegrityError, RecipeError
from softcache.store.layout import ROWS

GOLDEN = Path(__file__).parent.parent / "golden"


def check_same(old: Path, new: Path) -> None:
    """Compare two caches as a reader sees them, by row number and by key."""
    a, b = softcache.open(old), softcache.open(new)
    assert (a.targets, a.commit.rows, a.commit.splits, a.commit.keep) == (
        b.targets,
        b.commit.rows,
        b.commit.splits,
        b.commit.keep,
    )
    assert a.rows.table().combine_chunks().equals(b.rows.table().combine_chunks())
    table = a.rows.table()
    ids, views = table["sample_id"].to_pylist(), table["view"].to_pylist()
    assert a.find(ids, views).tolist() == b.find(ids, views).tolist() == list(range(a.commit.rows))
    for name in a.targets:
        before, after = a.committed(name), b.committed(name)
        assert (before.declaration, before.fingerprint, before.versions) == (
            after.declaration,
            after.fingerprint,
            after.versions,
        )
        assert (before.valid, before.skipped, before.skipped_rows) == (after.valid, after.skipped, after.skipped_rows)
        assert before.statistics.get("errors") == after.statistics.get("errors")
        rows = a[name].covered_rows()
        assert rows.tolist() == b[name].covered_rows().tolist()
        one, other = a[name].read(rows), b[name].read(rows)
        assert torch.equal(one.mask, other.mask)
        for column, values in one.columns.items():
            assert values.numpy().tobytes() == other.columns[column].numpy().tobytes(), (name, column)
    assert softcache.verify(new).problems == []


@pytest.mark.parametrize("name", ["v1", "views", "words"])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_golden_caches(tmp_path: Path, name: str, rows: int) -> None:
    """Every codec, kind and layout, skipped rows, views."""
    made = softcache.repack(GOLDEN / name, tmp_path / "new", fragment_rows=rows)
    assert made.rows == softcache.open(GOLDEN / name).commit.rows
    check_same(GOLDEN / name, tmp_path / "new")
    again = softcache.repack(tmp_path / "new", tmp_path / "again", fragment_rows=2)
    check_same(GOLDEN / name, tmp_path / "again")
    assert again.source_shards == made.shards


def test_every_kind(tmp_path: Path) -> None:
    kinds = Kinds(tmp_path)
    kinds.build()
    softcache.repack(kinds.cache, tmp_path / "new", fragment_rows=7)
    check_same(kinds.cache, tmp_path / "new")
    kinds.cache = tmp_path / "new"
    assert kinds.build().up_to_date, "a build finds nothing to do"


def test_many_small_pieces_become_one(workshop: Workshop, tmp_path: Path) -> None:
    """As a cache grows: pieces of a few samples, targets that lack some of them, two splits of one name."""
    for count in (3, 7, 8, 20, 40):
        workshop.samples(count)
        workshop.recipe["tasks"].pop("late", None)
        workshop.build()
    workshop.recipe["tasks"]["late"] = workshop.recipe["tasks"]["feat"] | {"output": "feat"}
    workshop.build(limit=8)
    assert len(softcache.open(workshop.cache)["late"].covered_rows()) == 8
    made = softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=1000)
    check_same(workshop.cache, tmp_path / "new")
    assert made.shards == 2 * 3 + 1, "rows, cls, feat in two pieces each: with an answer of late, and without"
    origin = softcache.open(tmp_path / "new").commit.transfer_set["repacked"]
    assert origin["commit"] == softcache.open(workshop.cache).commit.number

    workshop.cache = tmp_path / "new"
    workshop.samples(50)
    assert workshop.build().answered == 42, "new samples, and those that late lacks"
    assert softcache.verify(workshop.cache).ok


def test_views_that_came_later(augmented: Augmented, tmp_path: Path) -> None:
    """Fragments of further views are cut where those of the first views are, so that more can come."""
    workshop = augmented(views=1)
    workshop.build()
    workshop.build("augmentation.views=3")
    softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=21)
    check_same(workshop.cache, tmp_path / "new")
    old, workshop.cache = workshop.cache, tmp_path / "new"
    assert workshop.build("augmentation.views=3").up_to_date
    workshop.build("augmentation.views=4")
    cache = workshop.open()
    assert (cache.commit.views, cache.commit.rows) == (4, 160)
    assert softcache.verify(workshop.cache).ok
    first = cache["cls"].lookup(np.arange(40), 0)
    assert torch.equal(first.values, softcache.open(old)["cls"].lookup(np.arange(40), 0).values)


@pytest.mark.parametrize("chosen", [range(10), [*range(10), *range(20, 30)], [*range(30, 40), *range(10)]])
@pytest.mark.parametrize("rows", [15, 60])
def test_views_that_came_later_of_some_samples(augmented: Augmented, tmp_path: Path, chosen: Any, rows: int) -> None:
    """No later build loses a view or makes one twice, wherever the samples that have more views lie."""
    workshop = augmented(views=1)
    workshop.build()
    path = workshop.folder / "samples.json"
    whole = json.loads(path.read_text())
    x = np.array(whole["x"]).reshape(-1, 4)
    some = {"id": list(chosen), "x": x[list(chosen)].ravel().tolist(), "label": [whole["label"][i] for i in chosen]}
    path.write_text(json.dumps(some))
    workshop.build("augmentation.views=3")
    path.write_text(json.dumps(whole))
    softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=rows)
    check_same(workshop.cache, tmp_path / "new")
    workshop.cache = tmp_path / "new"
    workshop.build("augmentation.views=3")
    table = workshop.open().rows.table()
    keys = sorted(zip(table["sample_id"].to_pylist(), table["view"].to_pylist(), strict=True))
    assert keys == [(i, view) for i in range(40) for view in range(3)]
    assert softcache.verify(workshop.cache).ok


def test_a_damaged_source_is_not_copied(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build()
    for target, name in (("cls@t", "*.arrow"), ("feat@t", "values/c/0/0"), (ROWS, "*.arrow")):
        shutil.copytree(workshop.cache, tmp_path / target)
        path = next((tmp_path / target / "data" / target).rglob(name))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError):
            softcache.repack(tmp_path / target, tmp_path / f"{target}-new", fragment_rows=1000)
        assert not list((tmp_path / f"{target}-new").rglob("commits/*/*.json"))


def test_goes_on_after_a_kill(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softcache.audit import repack

    workshop.build()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repack, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=1000)
    monkeypatch.undo()
    softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=1000)
    check_same(workshop.cache, tmp_path / "new")


def test_refused(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build()
    with pytest.raises(RecipeError, match="another folder than the cache's own"):
        softcache.repack(workshop.cache, workshop.cache, fragment_rows=10)
    softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=10)
    with pytest.raises(RecipeError, match="another cache; repack into a new or empty folder"):
        softcache.repack(workshop.cache, tmp_path / "new", fragment_rows=10)
    with pytest.raises(RecipeError, match="not a softcache cache, and not empty"):
        softcache.repack(workshop.cache, workshop.folder, fragment_rows=10)
    with pytest.raises(RecipeError, match="fragment_rows is 0"):
        softcache.repack(workshop.cache, tmp_path / "other", fragment_rows=0)


def test_command(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build()
    words = ["repack", str(workshop.cache), str(tmp_path / "new"), "--fragment-rows", "40"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "40 rows: 12 shards before, now 3 of" in shown.output
    words[2] = str(tmp_path / "again")
    assert json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["shards"] == 3
