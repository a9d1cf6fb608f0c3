"""join and attach: any loader, any order, workers."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import Workshop
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import softcache
from softcache.errors import AlignmentError, TaskError


class Dicts(Dataset[dict[str, Any]]):
    """Samples as dicts, ids running backwards."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        place = len(self) - 1 - i
        return {"id": place, "x": self.inputs[place]}


@pytest.fixture
def built(workshop: Workshop) -> Workshop:
    workshop.build()
    return workshop


def check(workshop: Workshop, batch: dict[str, Any]) -> None:
    expected = workshop.answers()[batch["id"]]
    assert torch.equal(torch.as_tensor(batch["soft"]["cls"].ids), batch["id"])
    assert torch.allclose(batch["soft"]["cls@t"].values.double(), expected, atol=1e-5)
    assert torch.equal(batch["x"], workshop.inputs()[batch["id"]])


def test_join_dicts(built: Workshop) -> None:
    loader = DataLoader(Dicts(built.inputs()), batch_size=7, shuffle=True)
    joined = softcache.join(loader, built.open(), id="id", targets=["cls", "feat@t"])
    assert len(joined) == 6
    for _ in range(2):
        seen = []
        for batch in joined:
            check(built, batch)
            assert list(batch["soft"]) == ["cls@t", "feat@t"]
            seen += batch["id"].tolist()
            moved = {k: v.to("cpu") for k, v in batch.items()}
            assert torch.equal(moved["soft"]["feat"].values, batch["soft"]["feat"].values)
        assert sorted(seen) == list(range(40))


def test_join_tuples_and_plain_iterables(built: Workshop) -> None:
    ids = torch.arange(40)
    loader = DataLoader(TensorDataset(built.inputs(), ids), batch_size=16)
    for (_, batch_ids), soft in softcache.join(loader, built.open(), id=1):
        assert torch.allclose(soft["cls"].values.double(), built.answers()[batch_ids], atol=1e-5)

    def batches() -> Iterator[dict[str, Any]]:
        yield {"id": [3, 3, 1]}

    (batch,) = softcache.join(batches(), built.open(), id="id")
    assert batch["soft"]["cls"].ids.tolist() == [3, 3, 1]


def test_join_errors(built: Workshop) -> None:
    cache = built.open()
    with pytest.raises(TaskError, match="cls@t, feat@t"):
        softcache.join([], cache, id="id", targets=["nope"])
    with pytest.raises(AlignmentError, match="no field 'ids'; they are keys id"):
        next(iter(softcache.join([{"id": [1]}], cache, id="ids")))
    with pytest.raises(AlignmentError, match="lacks 2 of 3 keys: 40, 41"):
        next(iter(softcache.join([{"id": [40, 41, 1]}], cache, id="id")))


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_attach_in_workers(built: Workshop, workers: int, method: str | None) -> None:
    data = softcache.attach(Dicts(built.inputs()), built.open(), id="id")
    loader = DataLoader(
        data,
        batch_size=8,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method,
        collate_fn=softcache.collate,
    )
    seen = []
    for batch in loader:
        check(built, batch)
        seen += batch["id"].tolist()
    assert sorted(seen) == list(range(40))


def test_attach_without_decoding(built: Workshop) -> None:
    class Unreadable(Dicts):
        def __getitem__(self, i: int) -> dict[str, Any]:
            raise AssertionError("a sample was decoded")

    data = softcache.attach(Unreadable(built.inputs()), built.open(), ids=range(39, -1, -1))
    assert len(data) == 40


def test_attach_tuples_subsets_and_single_samples(built: Workshop) -> None:
    tuples = TensorDataset(built.inputs(), torch.arange(40))
    data = softcache.attach(tuples, built.open(), id=1, targets=["cls"])
    (x, i), soft = data[7]
    assert torch.equal(x, built.inputs()[7])
    assert soft["cls"].ids.tolist() == [7]
    for (_, ids), soft in DataLoader(Subset(data, range(5, 20)), batch_size=4, collate_fn=softcache.collate):
        assert torch.allclose(soft["cls"].values.double(), built.answers()[ids], atol=1e-5)
    (_, ids), soft = softcache.collate([data[3], data[1]])
    assert ids.tolist() == soft["cls"].ids.tolist() == [3, 1]
    assert int(i) == 7
    (_, ids), soft = softcache.collate(data[-2:])
    assert ids.tolist() == soft["cls"].ids.tolist() == [38, 39]


@pytest.mark.parametrize("one", [np.array, torch.tensor, lambda i: np.array([i]), lambda i: torch.tensor([i])])
def test_attach_ids_in_arrays_of_one(built: Workshop, one: Any) -> None:
    samples: Any = [{"id": one(i), "x": x} for i, x in enumerate(built.inputs())]
    data = softcache.attach(samples, built.open(), id="id")
    assert [int(data[i]["soft"]["cls"].ids[0]) for i in (3, 39)] == [3, 39]


def test_attach_an_ensemble_and_lists_of_dicts(built: Workshop) -> None:
    cache = built.open()
    mean = softcache.ensemble([cache["cls"], cache["cls"]])
    data = softcache.attach(Dicts(built.inputs()), cache, id="id", targets=[mean, "cls"])
    batch = softcache.collate([data[0], data[1]])
    assert torch.allclose(batch["soft"][mean.name].log_probs(3.0), batch["soft"]["cls@t"].log_probs(3.0), atol=1e-5)


def test_attach_checks_the_join(built: Workshop) -> None:
    cache, inputs = built.open(), built.inputs()
    with pytest.raises(AlignmentError, match="lacks 1 of 41 keys: 40"):
        softcache.attach(Dicts(torch.cat([inputs, inputs[:1]])), cache, id="id")
    with pytest.raises(AlignmentError, match="1 id of the dataset occur more than once: 7"):
        softcache.attach(Dicts(inputs), cache, ids=[7, 7, *range(2, 40)])
    with pytest.raises(AlignmentError, match="3 ids for 40 samples"):
        softcache.attach(Dicts(inputs), cache, ids=[1, 2, 3])
    with pytest.raises(AlignmentError, match="give id='id' or ids=, not both"):
        softcache.attach(Dicts(inputs), cache, id="id", ids=range(40))
    with pytest.raises(TaskError, match=r"'cls' is not an open cache"):
        softcache.attach(Dicts(inputs), "cls", id="id")  # type: ignore[arg-type]
    with pytest.raises(AlignmentError, match=r"gives arrow tables, not samples; use \.with_format\(None\)"):
        softcache.attach(datasets.Dataset.from_dict({"id": list(range(40))}).with_format("arrow"), cache, id="id")
    with pytest.raises(AlignmentError, match="say which sample is which"):
        softcache.attach(TensorDataset(inputs), cache)
    with pytest.raises(AlignmentError, match="no field 'nope'"):
        softcache.attach(Dicts(inputs), cache, id="nope")
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict({"id": list(range(40))}))
    with pytest.raises(AlignmentError, match=r"this DatasetDict has no samples of its own; .*: 'train'"):
        softcache.attach(splits, cache, id="id")
    data = softcache.attach(Dicts(inputs), cache, id="id")
    with pytest.raises(AlignmentError, match="1 of 2 samples have no soft targets"):
        softcache.collate([data[0], {"id": 1, "x": inputs[1]}])
    for one in (data, softcache.attach(TensorDataset(inputs), cache, ids=range(40))):
        with pytest.raises(TaskError, match="this is one sample, not a batch"):
            next(iter(DataLoader(one, batch_size=None, collate_fn=softcache.collate)))
    assert len(data[40:]) == 0


def test_which_targets(built: Workshop) -> None:
    cache = built.open()
    for targets, match in (
        ([], "targets is empty"),
        ([5], "5 is not a target"),
        (5, "5 is not a list of targets"),
        ([cache["cls"], built.open()["cls"]], "two of the targets are called cls@t"),
    ):
        with pytest.raises(TaskError, match=match):
            softcache.attach(Dicts(built.inputs()), cache, id="id", targets=targets)  # type: ignore[arg-type]
    assert len(softcache.join([], cache, id=0, targets=["cls", "cls"])) == 0
    assert softcache.SoftBatch({}).rows == 0
    for wrong in (cache["cls"], "cls", 5):
        with pytest.raises(TaskError, match="is not a list of targets"):
            softcache.ensemble(wrong)  # type: ignore[arg-type]
    assert softcache.ensemble(cache[name] for name in ("cls", "cls")).lookup([1]).mask.all()


def test_attach_catches_changed_samples(built: Workshop) -> None:
    x = built.inputs().numpy()
    made = {"id": list(range(40)), "x": list(x), "label": [0] * 40}
    features = datasets.Features(
        id=datasets.Value("int64"), x=datasets.List(datasets.Value("float32"), length=4), label=datasets.Value("int64")
    )
    same = datasets.Dataset.from_dict(made, features=features)
    data = softcache.attach(same, built.open(), id="id")
    batch = next(iter(DataLoader(data, batch_size=4, collate_fn=softcache.collate)))
    assert batch["soft"]["cls"].ids.tolist() == [0, 1, 2, 3]
    made["x"][23] = x[23] + 1
    with pytest.raises(AlignmentError, match="1 sample, 23"):
        softcache.attach(datasets.Dataset.from_dict(made, features=features), built.open(), id="id")


def test_lookup_compares_hashes(built: Workshop) -> None:
    cache = built.open()
    contents = cache.rows.table()["content"].to_pylist()
    for hashes in (
        contents[3:5],
        [c.hex() for c in contents[3:5]],
        np.frombuffer(b"".join(contents[3:5]), np.uint8).reshape(2, 32),
    ):
        assert len(cache["cls"].lookup([3, 4], hashes=hashes)) == 2
    with pytest.raises(AlignmentError, match="1 sample, 4"):
        cache["cls"].lookup([3, 4], hashes=[contents[3], contents[3]])
    for wrong in ([b"short", b"short"], contents[:1], ["zz", "zz"], [1, 2]):
        with pytest.raises(AlignmentError, match="hashes="):
            cache["cls"].lookup([3, 4], hashes=wrong)


def test_views(built: Workshop) -> None:
    target = built.open()["cls"]
    assert target.lookup([1, 2], views=0).views.tolist() == [0, 0]
    assert target.lookup([1, 2], views=[0, 0]).ids.tolist() == [1, 2]
    with pytest.raises(AlignmentError, match=r"\(1, 1\)"):
        target.lookup([1, 2], views=[1, 0])
    with pytest.raises(AlignmentError, match="views must be"):
        target.lookup([1], views=[-1])


def test_slicing_soft_targets(built: Workshop) -> None:
    soft = built.open()["cls"].lookup([5, 6, 7])
    assert soft[1].ids.tolist() == [6]
    assert soft[-1].ids.tolist() == [7]
    assert soft[1:].values.equal(soft.values[1:])
    assert soft[torch.tensor([True, False, True])].ids.tolist() == [5, 7]
    assert soft[np.array([2, 0])].ids.tolist() == [7, 5]
    assert len(soft[:0]) == 0
    assert soft[torch.tensor([1, 0, 1], dtype=torch.uint8)].ids.tolist() == [6, 5, 6]
    assert soft[::-1].ids.tolist() == [7, 6, 5]
    assert soft[[]].ids.tolist() == []
    with pytest.raises(IndexError):
        soft[3]
    for wrong in (1.5, "x", None, [[0, 1], [1, 2]], True, torch.tensor([0.5])):
        with pytest.raises(TypeError, match="expected a slice, a mask"):
            soft[wrong]  # type: ignore[index]
    batch = softcache.SoftBatch({"cls@t": soft})
    assert batch[1:3]["cls"].ids.tolist() == [6, 7]
    assert batch[torch.tensor([2, 0])].rows == 2
    with pytest.raises(TypeError, match="has no part 1"):
        batch[1]  # type: ignore[call-overload]


def test_nothing_looked_up(built: Workshop) -> None:
    soft = built.open()["cls"].lookup([])
    assert soft.values.shape == (0, 5)
    assert soft.log_probs(2.0).shape == (0, 5)


@pytest.mark.parametrize("rows", [[40], [-1], [[1]], ["a"], [1.5], [2**40]])
def test_rows_that_are_none(built: Workshop, rows: Any) -> None:
    with pytest.raises(AlignmentError):
        built.open()["cls"].read(rows)
