"""Samples without an id column: joined by their contents, or by their positions."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import Workshop
from torch.utils.data import DataLoader, TensorDataset

import softcache
from softcache.errors import AlignmentError


@pytest.fixture(params=["content-hash", "by-position"])
def how(request: pytest.FixtureRequest, workshop: Workshop) -> str:
    workshop.recipe["transfer_set"] |= {"id": request.param, "content": ["x"]}
    workshop.recipe["teachers"]["t"]["reads"] = ["x"]
    workshop.build()
    return str(request.param)


def as_dataset(x: np.ndarray) -> datasets.Dataset:
    features = datasets.Features(x=datasets.List(datasets.Value("float32"), length=4))
    return datasets.Dataset.from_dict({"x": list(x)}, features=features)


def right(workshop: Workshop, data: Any, x: np.ndarray) -> None:
    """The soft targets of each sample are what the teacher says to it."""
    expected = workshop.answers(inputs=x)
    for i in (0, 7, len(x) - 1):
        assert torch.allclose(data[i]["soft"]["cls"].values[0].double(), expected[i], atol=1e-5)
    loader = DataLoader(data, 8, collate_fn=softcache.collate)
    values = torch.cat([batch["soft"]["cls"].values for batch in loader])
    assert torch.allclose(values.double(), expected, atol=1e-5)


def test_attach_finds_the_ids(workshop: Workshop, how: str) -> None:
    """Of a dataset, and of samples in memory: arrays, or tensors."""
    cache, x = workshop.open(), workshop.inputs().numpy()
    for data in (as_dataset(x), [{"x": row} for row in x], [{"x": torch.from_numpy(row)} for row in x]):
        right(workshop, softcache.attach(data, cache), x)
        right(workshop, softcache.attach(data, cache, id=how), x)


def test_another_order(workshop: Workshop, how: str) -> None:
    """By content it does not matter; by position it is an error, never other samples' soft targets."""
    cache, x = workshop.open(), workshop.inputs().numpy()[::-1].copy()
    if how == "content-hash":
        right(workshop, softcache.attach(as_dataset(x), cache), x)
        return
    for data in (as_dataset(x), [{"x": row} for row in x]):
        with pytest.raises(AlignmentError, match="not what the teachers saw"):
            softcache.attach(data, cache)


def test_changed_and_unknown_samples(workshop: Workshop, how: str) -> None:
    cache, x = workshop.open(), workshop.inputs().numpy()
    x[5] += 1
    with pytest.raises(AlignmentError, match="lacks 1 of 40 keys" if how == "content-hash" else "1 sample, 5"):
        softcache.attach(as_dataset(x), cache)
    other = [{"x": row.astype(np.float64)} for row in workshop.inputs().numpy()]  # another type is another content
    with pytest.raises(AlignmentError, match="lacks 40 of 40" if how == "content-hash" else "40 samples"):
        softcache.attach(other, cache)


def test_join_by_these_ids(workshop: Workshop, how: str) -> None:
    """A column of the ids makes any loader joinable."""
    cache, x = workshop.open(), workshop.inputs().numpy()
    ids = softcache.sample_ids(as_dataset(x), cache)
    assert ids.tolist() == cache.rows.table()["sample_id"].to_pylist()
    data = as_dataset(x).add_column("id", ids.tolist()).with_format("torch")
    seen = 0
    for batch in softcache.join(DataLoader(data, 8, shuffle=True), cache, id="id", targets=["cls"]):
        assert torch.allclose(batch["soft"]["cls"].values.double(), workshop.answers(inputs=batch["x"]), atol=1e-5)
        seen += len(batch["id"])
    assert seen == 40


def test_contents_that_cannot_be_made(workshop: Workshop, how: str) -> None:
    """Without the columns nothing proves that samples are the same; with ids= the user says so."""
    cache = workshop.open()
    for data in (TensorDataset(workshop.inputs()), [{"y": 0}] * 40, [{"x": object()}] * 40):
        with pytest.raises(AlignmentError, match=r"content hashes of this .* cannot be made"):
            softcache.attach(data, cache)
    ids = cache.rows.table()["sample_id"].to_pylist()
    assert len(softcache.attach(TensorDataset(workshop.inputs()), cache, ids=ids)) == 40


def test_positions_of_a_subset(workshop: Workshop) -> None:
    """They are those in the whole source, so that they stay when the subset changes."""
    workshop.recipe["transfer_set"] |= {"id": "by-position", "where": "label != 3", "content": ["x"]}
    workshop.recipe["teachers"]["t"]["reads"] = ["x"]
    workshop.build()
    assert workshop.open().rows.table()["sample_id"].to_pylist() == [i for i in range(40) if i % 5 != 3]
    del workshop.recipe["transfer_set"]["where"]
    workshop.calls()
    workshop.build()
    assert sorted(workshop.open().rows.table()["sample_id"].to_pylist()) == list(range(40))
    assert workshop.calls() < 40 + 2  # what was there is not asked again
    x = workshop.inputs().numpy()
    right(workshop, softcache.attach(as_dataset(x), workshop.open()), x)


def test_the_recipes_id_column(digits: Path) -> None:
    """Samples that have the column which the recipe names need no id=."""
    cache = softcache.open(digits)
    data = softcache.attach([{"id": i} for i in (5, 3)], cache, targets=["digit@a"])
    assert data[1]["soft"]["digit@a"].ids.tolist() == [3]
    assert softcache.sample_ids([{"id": 5}], cache).tolist() == [5]
    with pytest.raises(AlignmentError, match="say which sample is which"):
        softcache.attach([{"name": 5}], cache)


def test_a_dataset_with_features_of_its_own(digits: Path) -> None:
    class Samples(torch.utils.data.Dataset):
        features = torch.zeros(3, 64)

        def __len__(self) -> int:
            return len(self.features)

        def __getitem__(self, i: int) -> Any:
            return {"id": i, "image": self.features[i]}

    assert len(softcache.attach(Samples(), softcache.open(digits), targets=["digit@a"])) == 3
