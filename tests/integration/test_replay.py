"""Augmented builds, and students that are given the same views."""

import itertools
import multiprocessing
from importlib import import_module
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from augmented import Augmented, Students, answers, expected
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.cli import main
from softcache.errors import (
    AugmentationError,
)
from softcache.transfer.augmentation import view_seed
from softcache.transfer.view_checks import check_of


def test_teachers_see_the_views_that_the_format_says(augmented: Augmented) -> None:
    workshop = augmented(views=3, seed=7)
    workshop.build()
    shown = CliRunner().invoke(main, ["info", str(workshop.cache)]).output
    assert "up to 3 views of each sample: augment:noisy() of column x, seed 7" in shown
    cache, students = workshop.open(), Students(workshop)
    ids = np.repeat(students.ids, 3)
    views = np.tile(np.arange(3), len(students.ids))
    seen = np.stack([expected(students.x[i], int(i), int(v), 7) for i, v in zip(ids, views, strict=True)])
    soft = cache["cls"].lookup(ids, views)
    assert torch.allclose(soft.values, answers(workshop, seen), atol=1e-5)
    assert torch.allclose(
        cache["feat"].lookup(ids, views).values.float(), workshop.answers("feat", seen).float(), atol=1e-2
    )
    checks = cache.checks(cache.find(ids, views))
    assert [c.tobytes() for c in checks] == [check_of(x) for x in seen]
    assert cache.commit.views == 3
    assert cache.commit.rows == 120
    assert softcache.verify(workshop.cache).ok


def test_rows_are_stored_once_a_sample(augmented: Augmented) -> None:
    workshop = augmented("Scale", views=3)
    workshop.build()
    cache = workshop.open()
    stored = datasets.load_dataset(str(workshop.cache), "rows", split="train")
    assert stored.num_rows == 40
    assert {len(row["check"]) for row in stored} == {3}
    of_target = datasets.load_dataset(str(workshop.cache), "cls@t", split="train")
    assert of_target.num_rows == 120
    assert of_target["view"][:4] == [0, 1, 2, 0]
    table = cache.rows.table()
    assert table.num_rows == 120
    assert table["sample_id"].to_pylist() == of_target["sample_id"][:]
    assert table["view"].to_pylist() == of_target["view"][:]
    assert np.array_equal(np.stack(table["check"].to_numpy()), cache.checks(np.arange(120)))
    assert [set(p) for p in cache.parameters([0, 119])] == [{"by", "mirrored"}] * 2
    assert cache.rows.to_hf().num_rows == 40


@pytest.mark.parametrize("transform", ["noisy", "given_rng", "Scale", "Mix", "OwnGenerator"])
def test_students_are_given_the_same_views(augmented: Augmented, augment: ModuleType, transform: str) -> None:
    """In any order and batch size, by epoch, with what comes after the view left to the student."""
    workshop = augmented(transform, views=3)
    workshop.build()
    cache = workshop.open()
    order = np.random.default_rng(1).permutation(40).tolist()
    made = getattr(augment, transform)
    made = made() if isinstance(made, type) else made
    data = softcache.views(Students(workshop, order), cache, made, id="id", check="always", then=lambda x: x * 2)
    for epoch, size in [(0, 7), (1, 40), (2, 1), (3, 16)]:
        data.set_epoch(epoch)
        assert data.view == epoch % 3
        loader = torch.utils.data.DataLoader(data, batch_size=size, shuffle=True, collate_fn=softcache.collate)
        for batch in loader:
            soft = batch["soft"]["cls@t"]
            assert soft.ids.tolist() == batch["id"].tolist()
            assert set(soft.views.tolist()) == {epoch % 3}
            said = answers(workshop, (batch["x"] / 2).numpy())
            assert torch.allclose(soft.values, said, atol=1e-4)


def test_resuming_in_the_middle_of_an_epoch(augmented: Augmented, augment: ModuleType) -> None:
    """A new process that sets the epoch, and takes up its sampler, goes on with the same views."""
    workshop = augmented(views=3)
    workshop.build()

    def batches(epoch: int, skipped: int) -> list[Any]:
        data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id", check="always")
        data.set_epoch(epoch)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(epoch)).split(8)
        return [softcache.collate(data.__getitems__(part.tolist())) for part in order[skipped:]]

    for whole, resumed in zip(batches(5, 0)[3:], batches(5, 3), strict=True):
        assert torch.equal(whole["x"], resumed["x"])
        assert torch.equal(whole["soft"]["cls@t"].values, resumed["soft"]["cls@t"].values)


@pytest.mark.parametrize("transform", ["noisy", "Mix"])
def test_tuples_and_whole_samples(augmented: Augmented, augment: ModuleType, transform: str) -> None:
    workshop = augmented(transform)
    workshop.build()
    made = getattr(augment, transform)
    made = made() if isinstance(made, type) else made
    data = softcache.views(Students(workshop, as_tuples=True), workshop.open(), made, id=1, column=0, check="always")
    sample, soft = data[3]
    assert isinstance(sample, tuple)
    assert torch.allclose(soft["cls@t"].values, answers(workshop, sample[0][None]), atol=1e-4)


def test_a_transform_of_whole_samples(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented("whole", column=None)
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.whole, id="id", check="always")
    sample = data[5]
    assert np.array_equal(sample["x"], expected(Students(workshop).x[5], 5, 0))
    then = softcache.views(Students(workshop), workshop.open(), augment.whole, id="id", then=lambda s: s | {"y": 1})
    assert then[5]["y"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (4, "fork"), (2, "spawn"), (4, "spawn")])
def test_ten_thousand_views(augmented: Augmented, augment: ModuleType, workers: int, start: str | None) -> None:
    """All of them, compared, in loaders with workers that live through the epochs."""
    workshop = augmented(views=5)
    workshop.samples(2_000)
    workshop.recipe["build"] = {"batch_size": 64, "fragment_rows": 2_500}
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id", check="always")
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=37,
        shuffle=True,
        collate_fn=softcache.collate,
        num_workers=workers,
        multiprocessing_context=start and multiprocessing.get_context(start),
        persistent_workers=workers > 0,
    )
    seen = set()
    for epoch in range(5):
        data.set_epoch(epoch)
        for batch in loader:
            soft = batch["soft"]["cls@t"]
            seen |= set(zip(soft.ids.tolist(), soft.views.tolist(), strict=True))
            assert soft.ids.tolist() == batch["id"].tolist()
    assert seen == set(itertools.product(range(2_000), range(5)))


def test_seeds_differ() -> None:
    seeds = {view_seed(s, i, v) for s in range(4) for i in (*range(50), *map(str, range(50))) for v in range(10)}
    assert len(seeds) == 4 * 100 * 10


PIPELINE = """
import albumentations as A
import numpy as np
import torch

pipeline = A.Compose(
    [
        A.RandomResizedCrop(size=(24, 24), scale=(0.4, 1)),
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(p=0.7),
        A.GaussNoise(p=0.5),
    ]
)


def wrapped(image):
    return pipeline(image=image)["image"]


def photos():
    return {"id": list(range(20)), "image": np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)}


class Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean((1, 2))


def preprocess(sample):
    return torch.tensor(sample["image"], dtype=torch.float32)
"""


@pytest.mark.filterwarnings("ignore")
def test_albumentations(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transforms keep a generator of their own: named themselves they are replayed, in a function refused."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip("albumentations")
    workshop.write("mine.py", PIPELINE)
    workshop.recipe |= {
        "transfer_set": {"source": {"type": "python", "callable": "mine:photos"}, "id": "id"},
        "teachers": {"t": {"model": "mine:Mean", "preprocess": "mine:preprocess", "reads": ["image"]}},
        "tasks": {"mean": {"kind": "features", "shape": [3], "teachers": ["t"], "store": {"dtype": "float32"}}},
        "augmentation": {"transform": "mine:pipeline", "column": "image", "views": 4},
    }
    workshop.build()
    monkeypatch.syspath_prepend(str(workshop.folder))
    mine = import_module("mine")
    samples = [{"id": i, "image": image} for i, image in enumerate(mine.photos()["image"])]
    data = softcache.views(samples, workshop.open(), mine.pipeline, id="id", check="always")
    for epoch in (2, 0, 3, 1):
        data.set_epoch(epoch)
        for batch in torch.utils.data.DataLoader(data, 7, shuffle=True, collate_fn=softcache.collate):
            means = batch["image"].float().mean((1, 2))
            assert torch.allclose(batch["soft"]["mean@t"].values, means, atol=1e-3)
    assert "albumentations" in workshop.open().commit.augmentation["versions"][0]
    workshop.cache = workshop.cache.with_name("wrapped")
    with pytest.raises(AugmentationError, match="draws from a generator of its own"):
        workshop.build("augmentation.transform=mine:wrapped")
