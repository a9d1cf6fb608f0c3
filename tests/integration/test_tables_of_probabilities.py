"""Whole targets as tables: students of LightGBM and scikit-learn, and what the tables contain."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lightgbm
import numpy as np
import pandas
import pytest
import torch
from augmented import Augmented
from conftest import Workshop
from every_kind import TASKS, Kinds
from expressions import CLASSES, answered_by_expression, one
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestRegressor

import softcache
from softcache.errors import AlignmentError, MissingExtra, TaskError
from softcache.soft import tables

T = 4.0


@pytest.fixture(scope="module")
def features() -> pandas.DataFrame:
    """The pixels of the digits by id, in an order of their own."""
    pixels = pandas.DataFrame(load_digits().data, columns=[f"pixel {i}" for i in range(64)])
    return pixels.sample(frac=1, random_state=0).rename_axis("sample_id")


def forest(x: pandas.DataFrame, table: pandas.DataFrame) -> Callable[[pandas.DataFrame], np.ndarray]:
    """scikit-learn: a forest that predicts the probabilities themselves."""
    model = RandomForestRegressor(20, random_state=0).fit(x, table)
    return lambda new: table.columns.to_numpy()[model.predict(new).argmax(1)]


def boosted(x: pandas.DataFrame, table: pandas.DataFrame) -> Callable[[pandas.DataFrame], np.ndarray]:
    """LightGBM: each sample once for each class, weighted by its probability, whose loss is the cross-entropy."""
    model = lightgbm.LGBMClassifier(n_estimators=10, num_leaves=15, n_jobs=1, verbose=-1, random_state=0)
    long = table.stack()
    model.fit(x.loc[long.index.get_level_values(0)], long.index.get_level_values(1), sample_weight=long.to_numpy())
    return model.predict  # type: ignore[no-any-return]


@pytest.mark.parametrize("student", [forest, boosted])
def test_students_that_are_not_neural(digits: Path, features: pandas.DataFrame, student: Any) -> None:
    """Trained on rows that are joined by id, they know held-out digits; joined by position they know nothing."""
    cache = softcache.open(digits)
    labels = pandas.Series(cache.rows.table()["label"].to_numpy())
    table = softcache.ensemble([cache["digit@a"], cache["digit@b"]]).to_pandas(temperature=T)
    train, test = table[table.index % 3 != 2], labels[labels.index % 3 == 2]
    predict = student(features.loc[train.index], train)
    assert (predict(features.loc[test.index]) == test).mean() > 0.85
    by_position = features.iloc[: len(train)].set_axis(train.index)
    predict = student(by_position, train)
    assert (predict(features.loc[test.index]) == test).mean() < 0.3


def test_what_a_table_has(digits: Path) -> None:
    target = softcache.open(digits)["digit@a"]
    table = target.to_pandas(temperature=T)
    soft = target.lookup(table.index.to_numpy())
    assert np.array_equal(table.to_numpy(), soft.probs(T).numpy())
    assert table.dtypes.unique().tolist() == [np.float32]
    assert (table.columns.tolist(), table.index.name, table.index.is_unique) == (list(range(10)), "sample_id", True)
    assert np.array_equal(target.to_pandas().to_numpy(), target.read(slice(None)).probs(1.0).numpy())
    found = target.to_hf(temperature=T).with_format("numpy")
    assert (found.column_names, found.features["probs"].length) == (["sample_id", "view", "probs"], 10)
    assert found.features["probs"].feature == datasets.Value("float32")
    assert np.array_equal(found["probs"][:], table.to_numpy())
    assert np.array_equal(found["sample_id"][:], table.index)
    assert str(target.to_hf("train", T).split) == "train"


def test_in_parts_as_in_one(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = softcache.open(digits)["digit@a"]
    whole = target.to_pandas(T)
    monkeypatch.setattr(tables, "_NUMBERS", 1000)
    assert target.to_pandas(T).equals(whole)
    monkeypatch.setattr(tables, "MAX_DENSE_BYTES", 71_879)
    with pytest.raises(TaskError, match=r"digit@a: 1,797 rows of 10 numbers would take .* take one split"):
        target.to_pandas(T)


def test_labels_texts_and_rows_without_an_answer(workshop: Workshop) -> None:
    """Rows that the teacher skipped, or that the target does not cover, are not in the table."""
    ids = [f"s{i}" for i in range(12)]
    workshop.samples(12, ids=ids, change=lambda x: x.__setitem__((3, 0), 950))
    del workshop.recipe["tasks"]["feat"]
    task = workshop.recipe["tasks"]["cls"] | {"labels": list("vwxyz")}
    del task["classes"], task["label"]
    workshop.recipe["tasks"]["cls"] = task
    workshop.recipe["build"] |= {"on_bad_sample": "skip", "fragment_rows": 4}
    workshop.build(limit=8)
    workshop.recipe["tasks"]["all"] = task | {"output": "cls"}
    workshop.build("~tasks.cls")
    cache = workshop.open()
    some, every = cache["cls"].to_pandas(2.0), cache["all"].to_pandas(2.0)
    assert some.index.tolist() == [f"s{i}" for i in range(8) if i != 3]
    assert every.index.tolist() == [f"s{i}" for i in range(12) if i != 3]
    assert every.columns.tolist() == list("vwxyz")
    live = (workshop.answers() / 2).softmax(1)[[i for i in range(12) if i != 3]]
    np.testing.assert_allclose(every.to_numpy(), live, atol=1e-5)
    assert not every.isna().to_numpy().any()
    mean = softcache.ensemble([cache["all"], cache["cls"]])
    assert mean.to_pandas(2.0).index.tolist() == some.index.tolist()
    assert mean.to_hf(temperature=2.0)["sample_id"][:] == some.index.tolist()
    assert mean.to_hf().features["sample_id"] == datasets.Value("string")


def test_members_from_several_caches(workshop: Workshop, tmp_path: Path) -> None:
    """Joined by id, in the order of the first; a row that one cache lacks is left out."""
    shop = one(answered_by_expression(workshop), "{'a': h}", CLASSES)
    x = shop.inputs()
    shop.build()
    other = Workshop.__new__(Workshop)
    other.__dict__ |= {"folder": shop.folder, "cache": tmp_path / "other", "recipe": shop.recipe}
    order = np.random.default_rng(0).permutation(40)[:30]
    other.samples(
        30, ids=[*order[:29].tolist(), 99], change=lambda new: new.__setitem__(slice(29), x[order[:29]].numpy())
    )
    other.build()
    first, second = shop.open()["a"], other.open()["a"]
    mean = softcache.ensemble([first, second])
    table = mean.to_pandas(T)
    assert table.index.tolist() == sorted(order[:29].tolist())
    np.testing.assert_allclose(table, first.to_pandas(T).loc[table.index], atol=1e-6)
    assert softcache.ensemble([second, first]).to_pandas(T).index.tolist() == order[:29].tolist()
    other.cache = tmp_path / "third"
    other.samples(2, ids=[100, 101])
    other.build()
    with pytest.raises(AlignmentError, match=r"no row is covered by every member of a@t\+a@t"):
        softcache.ensemble([first, other.open()["a"]]).to_pandas(T)


def test_views(augmented: Callable[..., Augmented]) -> None:
    shop = augmented("noisy", 3)
    del shop.recipe["tasks"]["feat"]
    shop.build()
    target = shop.open()["cls"]
    table = target.to_pandas(2.0)
    assert (table.index.names, len(table)) == (["sample_id", "view"], 120)
    assert torch.equal(torch.tensor(table.loc[(7, 2)].to_numpy()), target.lookup([7], views=2).probs(2.0)[0])
    found = target.to_hf(temperature=2.0)
    assert list(zip(found["sample_id"][:], found["view"][:], strict=True)) == table.index.tolist()


def test_splits(workshop: Workshop) -> None:
    del workshop.recipe["tasks"]["feat"]
    workshop.samples(20)
    workshop.build()
    workshop.samples(12, ids=range(100, 112))
    workshop.build("transfer_set.split=test")
    cache = workshop.open()
    target, narrowed = cache["cls"], cache.split("test")["cls"]
    for table in (target.to_pandas(split="test"), narrowed.to_pandas(), narrowed.to_pandas(split="test")):
        assert table.index.tolist() == list(range(100, 112))
    assert len(target.to_pandas()) == 32
    assert len(softcache.ensemble([target, target]).to_pandas(split="train")) == 20
    with pytest.raises(TaskError, match="has no split 'nope'; it has test, train"):
        target.to_pandas(split="nope")
    with pytest.raises(TaskError, match="cls@t is narrowed to split test"):
        narrowed.to_pandas(split="train")


def test_every_kind(tmp_path: Path) -> None:
    kinds = Kinds(tmp_path)
    names = ("tags", "depth", "mean", "expert", "some", "maps", "objects")
    kinds.recipe["tasks"] = {name: TASKS[name] | {"teachers": ["t"]} for name in names}
    kinds.build()
    cache, outputs = kinds.open(), kinds.outputs()
    np.testing.assert_allclose(cache["tags"].to_pandas(2.0), (outputs["tags"] / 2).sigmoid(), atol=1e-5)
    np.testing.assert_allclose(cache["depth"].to_pandas(), outputs["depth"]["values"], rtol=1e-5)
    assert cache["mean"].to_pandas().columns.tolist() == [0, 1, 2]
    assert cache["expert"].to_pandas().columns.tolist() == ["cow", "ant", "hen", "dustbin"]
    assert cache["some"].to_pandas().columns.tolist() == ["cow", "ant", "hen"]
    for wrong, message in (
        (lambda: cache["depth"].to_pandas(2.0), "depth@t is a regression target: it has no temperature"),
        (lambda: cache["depth"].to_hf(temperature=1.0), "it has no temperature; leave temperature out"),
        (lambda: cache["maps"].to_pandas(), r"a row is an array \[5, 3, 4\], and a table has one number a class"),
        (lambda: cache["maps"].to_hf(temperature=1.0), "a row is an array"),
        (lambda: cache["objects"].to_pandas(), "a row is a sequence"),
        (lambda: cache["tags"].to_pandas(0.0), "expected a finite number above 0"),
        (lambda: cache["tags"].to_pandas(torch.ones(24)), "temperature has shape"),  # type: ignore[arg-type]
        (lambda: cache["tags"].to_pandas(torch.ones(1)), "temperature is a tensor"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TaskError, match=message):
            wrong()


def test_specialists(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "digits")
    recipe = Path(__file__).parents[2] / "recipes/digits/specialists.yaml"
    softcache.build(recipe, tmp_path / "digits", ["~teachers.curves", "tasks.digit.teachers=[strokes]",
                    "tasks.digit.knows={strokes: [1, 8, 9]}", "tasks.digit.dustbin=[strokes]"], limit=1024)  # fmt: skip
    cache = softcache.open(tmp_path / "digits")
    target = softcache.specialists(cache["digit@a"], [cache["digit@strokes"]])
    table = target.to_pandas(T)
    assert np.array_equal(table.to_numpy(), target.lookup(table.index.to_numpy()).probs(T).numpy())
    assert table.shape == (1797, 10)
    assert len(target.to_hf(temperature=T)) == 1797


def test_missing_libraries(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = softcache.open(digits)["digit@a"]
    for library, read, extra in (
        ("pandas", target.to_pandas, "tables"),
        ("datasets", lambda: target.to_hf(None, T), "hf"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, library, None)
            with pytest.raises(MissingExtra, match=rf"pip install 'softcache\[{extra}\]'"):
                read()
