"""Caches that grow or change: more samples, more targets, changed samples and labels."""

import json

import numpy as np
import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import (
    AlignmentError,
)


def test_growth_keeps_what_is_stored(workshop: Workshop) -> None:
    workshop.build(limit=15)
    before = {p: p.read_bytes() for p in workshop.cache.rglob("*") if p.is_file() and p.name != "README.md"}
    rows = workshop.open().rows.table()["sample_id"].to_pylist()
    workshop.calls()
    summary = workshop.build()
    assert (summary.answered, summary.commit, summary.rows) == (25, 2, 40)
    assert all(p.read_bytes() == data for p, data in before.items())
    cache = workshop.open()
    assert cache.rows.table()["sample_id"].to_pylist()[:15] == rows
    assert torch.allclose(cache["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)
    assert softcache.verify(workshop.cache).ok
    old = softcache.open(workshop.cache, commit=1)
    assert len(old.row_numbers) == 15
    with pytest.raises(AlignmentError, match="25 of 40"):
        old["cls"].lookup(range(40))


def test_many_growths_merge_the_index(workshop: Workshop) -> None:
    for count in range(2, 41, 2):
        workshop.build(limit=count)
    cache = workshop.open()
    assert cache.commit.number == 20
    assert len(cache.commit.index) <= 9
    assert cache.find(range(40)).tolist() == list(range(40))
    assert softcache.verify(workshop.cache).ok


def test_a_new_target_is_added(workshop: Workshop) -> None:
    workshop.build("~tasks.feat")
    assert workshop.open().targets == ("cls@t",)
    workshop.calls()
    assert workshop.build().answered == 40
    assert workshop.open().targets == ("cls@t", "feat@t")
    assert workshop.build("~tasks.cls").up_to_date


def test_missing_answers_are_not_invented(workshop: Workshop) -> None:
    workshop.build(limit=15)
    workshop.build("~tasks.feat")
    cache = workshop.open()
    assert len(cache["cls"].lookup(range(40))) == 40
    with pytest.raises(AlignmentError, match="feat@t does not cover 25 rows"):
        cache["feat"].lookup(range(40))
    assert softcache.verify(workshop.cache).ok


def test_a_changed_sample_redoes_its_fragment(workshop: Workshop) -> None:
    workshop.build()
    workshop.calls()
    before = workshop.open()

    def change(x: np.ndarray) -> None:
        x[23] += 1

    workshop.samples(40, change=change)
    assert workshop.build().answered == 10
    cache = workshop.open()
    assert torch.allclose(cache["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)
    assert cache.find([23]).tolist() == before.find([23]).tolist()
    assert not torch.equal(before["cls"].lookup([23]).values, cache["cls"].lookup([23]).values)
    assert softcache.verify(workshop.cache).ok


def test_a_changed_sample_takes_out_other_targets(workshop: Workshop) -> None:
    workshop.build()

    def change(x: np.ndarray) -> None:
        x[23] += 1

    workshop.samples(40, change=change)
    workshop.build("~tasks.feat")
    cache = workshop.open()
    assert cache.commit.dropped == [["feat@t", 2]]
    assert len(cache["feat"].lookup(range(20))) == 20
    with pytest.raises(AlignmentError, match="feat@t"):
        cache["feat"].lookup([23])
    workshop.build()
    assert len(workshop.open()["feat"].lookup(range(40))) == 40
    assert softcache.verify(workshop.cache).ok


def test_a_changed_label_rewrites_only_rows(workshop: Workshop) -> None:
    workshop.build()
    workshop.calls()
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"][5] = 4
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert workshop.build().answered == 0
    assert workshop.calls() == 0
    assert workshop.open().rows.table()["label"].to_pylist() == made["label"]


def test_lowered_limit_is_refused(workshop: Workshop) -> None:
    workshop.build()
    with pytest.raises(AlignmentError, match="a cache only grows"):
        workshop.build(limit=5)
