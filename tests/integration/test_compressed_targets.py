"""Compressed targets through a whole build: what is stored, what is measured, what other readers see."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import zarr
from conftest import MODEL, Workshop

import softcache
from softcache.cli.main import main
from softcache.codecs.fidelity import SHARE
from softcache.errors import CodecError, RecipeError, TeacherError

CLASSES = 400
WIDE = MODEL.replace("nn.Linear(4, 5)", f"nn.Linear(4, {CLASSES})")


@pytest.fixture
def workshop(tmp_path: Any) -> Workshop:
    """A teacher of 400 classes, one row of which spans more than 60 nats."""
    shop = Workshop(tmp_path)
    shop.write("model.py", WIDE)
    shop.samples(SHARE + 40, change=lambda x: x.__setitem__(7, 40.0))
    torch.manual_seed(0)
    from safetensors.torch import load_file, save_file

    tensors = load_file(shop.folder / "weights.safetensors")
    tensors |= {"head.weight": torch.randn(CLASSES, 4), "head.bias": torch.randn(CLASSES)}
    save_file(tensors, shop.folder / "weights.safetensors")
    cls = shop.recipe["tasks"]["cls"] | {"classes": CLASSES, "output": "cls"}
    stores = {
        "top": {"codec": "topk", "k": 16},
        "ztop": {"codec": "topk", "k": 16, "nodes": 24, "companions": False, "format": "zarr"},
        "quant": {"codec": "quantized"},
        "drawn": {"codec": "sampled", "draws": 20, "proposal": 2.0},
    }
    shop.recipe["tasks"] = {name: cls | {"name": f"{name}@t", "store": store} for name, store in stores.items()}
    shop.recipe["build"] = {"batch_size": 32, "fragment_rows": 300}
    return shop


def test_any_temperature(workshop: Workshop) -> None:
    workshop.build()
    assert softcache.verify(workshop.cache).ok
    cache, ids = workshop.open(), [3, 0, 7, 41]
    truth = workshop.answers()[ids]
    for temperature in (0.5, 0.8, 1.0, 3.0, 20.0):
        log_p = (truth / temperature).log_softmax(1)
        for name in ("top", "ztop"):
            sparse = cache[name].lookup(ids).sparse_log_probs(temperature)
            assert torch.allclose(sparse.log_probs.double().exp(), log_p.gather(1, sparse.ids).exp(), atol=1e-3)
            tail = log_p.scatter(1, sparse.ids, -torch.inf).exp().sum(1)
            assert torch.allclose(sparse.log_tail.double().exp(), tail, atol=1e-3)
        found = cache["quant"].lookup([0, 3, 41]).log_probs(temperature).double()
        expected = (workshop.answers()[[0, 3, 41]] / temperature).log_softmax(1)
        assert (found.exp() - expected.exp()).abs().sum(1).max() < 0.05


def test_measured(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """A fixed share of the rows is measured, and a wide one beside it; `info` shows what came of it."""
    workshop.build()
    cache = workshop.open()
    errors = cache["top"].errors
    assert errors is not None
    assert (errors.rows, errors.wide) == (3, 1), "rows 0 and 256, and the wide one"
    rows = [0, 7, SHARE]
    logits = workshop.answers()[rows]
    found = cache["top"].lookup(rows)
    tail_errors = []
    for temperature, measured in errors.at.items():
        log_p = (logits / float(temperature)).log_softmax(1)
        tv = (log_p.exp() - found.log_probs(float(temperature)).double().exp()).abs().sum(1) / 2
        assert measured["tv"] == pytest.approx((float(tv.max()), float(tv.mean())), rel=6e-3, abs=1e-5)
        tail_errors.append(measured["tail_mass"][0])
    assert errors.worst == max(tail_errors) <= 1e-3
    with pytest.raises(SystemExit):
        main(["info", str(workshop.cache)])
    said = capsys.readouterr().out
    assert "topk basis=0 companions=True k=16 nodes=16" in said
    assert "1 rows have logits more than 60 nats apart" in said
    assert "T = 0.5  tail mass" in said
    assert "KL unbounded" in said, "sampled classes leave others out"


def test_max_error(workshop: Workshop) -> None:
    """A target that errs more than it may stops the build, which says what would do."""
    store = workshop.recipe["tasks"]["ztop"]["store"]
    store |= {"k": 2, "nodes": 8, "max_error": 1e-4}
    with pytest.raises(CodecError) as caught:
        workshop.build()
    said = str(caught.value)
    assert "ztop@t: an error of" in said
    assert "max_error is 0.0001; store: {codec: topk" in said
    settings = dict(part.split(": ") for part in said.split("{")[1].split("}")[0].split(", "))
    store |= {"k": int(settings["k"]), "nodes": int(settings["nodes"])}
    del workshop.recipe["tasks"]["top"], workshop.recipe["tasks"]["drawn"], workshop.recipe["tasks"]["quant"]
    workshop.build()
    assert workshop.open()["ztop"].errors.worst <= 1e-4


def test_growth_merges_errors(workshop: Workshop) -> None:
    workshop.build(limit=SHARE)
    assert workshop.open()["top"].errors.rows == 2
    workshop.build()
    grown = workshop.open()["top"].errors
    assert grown.rows == 3, "the new fragment's first row is measured too"
    assert softcache.verify(workshop.cache).ok


def test_other_readers(workshop: Workshop) -> None:
    """Plain datasets and zarr read the columns that the format page describes."""
    workshop.build()
    table = datasets.load_dataset(str(workshop.cache), "top@t", split="train")
    assert table.column_names == [
        *("ids", "gaps", "sketch", "entropy", "top1", "top1_prob", "tail_mass"),
        *("valid", "sample_id", "view"),
    ]
    truth = workshop.answers().softmax(1)
    row = table[41]
    assert row["top1"] == row["ids"][0] == int(truth[41].argmax())
    assert row["top1_prob"] == pytest.approx(float(truth[41].max()), rel=2e-3)
    rest = truth[41].scatter(0, torch.tensor(row["ids"]), 0.0)
    assert row["tail_mass"] == pytest.approx(float(rest.sum()), rel=2e-3)
    assert row["entropy"] == pytest.approx(float(-(truth[41] * truth[41].log()).sum()), abs=5e-3)
    drawn = datasets.load_dataset(str(workshop.cache), "drawn@t", split="train")[0]
    assert sum(drawn["counts"]) == 20
    folder = next((workshop.cache / "data" / "ztop@t").rglob("*.zarr"))
    group = zarr.open_group(str(folder), mode="r")
    assert {name: array.shape for name, array in group.arrays()} == {
        "ids": (SHARE + 40, 16),
        "gaps": (SHARE + 40, 16),
        "sketch": (SHARE + 40, 25),
        **dict.fromkeys(("valid", "sample_id", "view"), (SHARE + 40,)),
    }
    assert group["ids"][41].tolist() == row["ids"]


def test_skipped_rows_are_nan(workshop: Workshop) -> None:
    shop = workshop
    shop.samples(20, change=lambda x: x.__setitem__(4, float("nan")))
    shop.build("build.on_bad_sample=skip")
    assert softcache.verify(shop.cache).ok
    for name in ("top", "ztop", "quant", "drawn"):
        soft = shop.open()[name].lookup([3, 4])
        assert soft.mask.tolist() == [True, False]
        assert soft.log_probs(2.0)[1].isnan().all()
        assert not soft.log_probs(2.0)[0].isnan().any()


def test_changed_answers_are_noticed(workshop: Workshop) -> None:
    """An undeclared change that keeps every gap and moves the classes is caught before work goes on."""
    helper = "def moved(x):\n    return x.roll(0, -1)\n"
    workshop.write("helper.py", helper)
    model = WIDE.replace("self.head(x) * self.scale", "moved(self.head(x) * self.scale)")
    workshop.write("model.py", "from helper import moved\n" + model)
    for name in ("top", "quant", "drawn"):
        del workshop.recipe["tasks"][name]
    workshop.build(limit=30)
    workshop.build(limit=40)
    workshop.write("helper.py", helper.replace("0", "1"))
    with pytest.raises(TeacherError, match="differs from what is stored"):
        workshop.build()


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ({"codec": "topk", "nodes": 9}, "tasks.top: store: nodes is 9; expected one of 4, 8, 12, 16, 24"),
        ({"codec": "topk", "dtype": "float16"}, "tasks.top: store: dtype: not a setting of codec topk"),
        ({"codec": "dense", "k": 4}, "tasks.top: store: k: not a setting of codec dense, which has dtype"),
        ({"codec": "topk", "max_error": 0.0}, "tasks.top.store.max_error"),
        ({"codec": "topk", "knodes": 1}, "unknown key; did you mean 'nodes'?"),
    ],
)
def test_wrong_settings(workshop: Workshop, store: dict[str, Any], said: str) -> None:
    workshop.recipe["tasks"]["top"]["store"] = store
    with pytest.raises(RecipeError) as caught:
        workshop.build()
    assert said in str(caught.value)


def test_a_zarr_shard_with_companions(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.recipe["tasks"]["cls"]["store"] = {"codec": "topk", "k": 2, "format": "zarr"}
    shop.build()
    assert softcache.verify(shop.cache).ok
