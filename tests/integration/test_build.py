"""Building: every sample, id, split, format and temperature, on local and remote storage."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import softcache
from softcache.errors import (
    AlignmentError,
    StorageError,
)
from softcache.store.files import connect


def test_values_and_order(workshop: Workshop) -> None:
    summary = workshop.build()
    assert (summary.rows, summary.answered, summary.commit) == (40, 40, 1)
    assert workshop.calls() == 40
    cache = workshop.open()
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 3))
    soft = cache["cls"].lookup(order)
    assert torch.allclose(soft.values.double(), workshop.answers()[order], atol=1e-5)
    assert soft.ids.tolist() == order.tolist()
    assert torch.equal(soft.values, cache["cls"].lookup(torch.tensor(order)).values)
    assert torch.equal(soft.values, cache["cls"].read(cache.find(order)).values)
    assert torch.allclose(
        cache["feat"].lookup([3]).values.double(), workshop.answers("feat")[[3]], rtol=2**-10, atol=1e-4
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_temperature_through_a_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Promise 1, from arbitrary logits through a build, the disk and a lookup in any order, against float64."""
    rows, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(2, 9))
    dtype, form = (
        data.draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        data.draw(st.sampled_from(["arrow", "zarr"])),
    )
    logits = data.draw(arrays(np.float32, (rows, classes), elements=st.floats(-200, 200, width=32)))
    workshop = Workshop(tmp_path_factory.mktemp("any"))
    np.save(workshop.folder / "logits.npy", logits)
    workshop.write("given.py", GIVEN)
    workshop.recipe["transfer_set"] = {"source": {"type": "python", "callable": "given:samples"}, "id": "id"}
    workshop.recipe["teachers"]["t"] = {"model": "given:Given", "preprocess": "given:preprocess", "reads": ["z"]}
    store = {"format": form, "dtype": dtype}
    workshop.recipe["tasks"] = {
        "cls": {"kind": "classification", "classes": classes, "value_kind": "logits", "teachers": ["t"], "store": store}
    }
    workshop.recipe["build"] = {"batch_size": 3, "fragment_rows": data.draw(st.integers(1, 12))}
    workshop.build()
    order = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=20))
    soft = workshop.open()["cls"].lookup([f"id {i}" for i in order])
    for t in (0.5, 1, 2, 4, 8, 20):
        z = logits[order].astype(np.float64) / t
        z -= z.max(1, keepdims=True)
        expected = z - np.log(np.exp(z).sum(1, keepdims=True))
        largest = np.abs(logits[order]).max() / t
        allowed = 2 * float(torch.finfo(soft.values.dtype).eps) * largest + 1e-6 * largest + 1e-5
        assert np.abs(soft.log_probs(t).double().numpy() - expected).max() <= allowed


GIVEN = """
import pathlib
import numpy as np
import torch


class Given(torch.nn.Module):
    def forward(self, rows):
        return rows


def samples():
    logits = np.load(pathlib.Path(__file__).parent / "logits.npy")
    return {"id": [f"id {i}" for i in range(len(logits))], "z": logits}


def preprocess(sample):
    return torch.tensor(sample["z"])
"""


@pytest.mark.parametrize("form", ["arrow", "zarr"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_formats_and_dtypes(workshop: Workshop, form: str, dtype: str) -> None:
    workshop.recipe["tasks"]["cls"]["store"] = {"format": form, "dtype": dtype}
    workshop.build()
    soft = workshop.open()["cls"].lookup(range(40))
    expected = workshop.answers().float().to(soft.values.dtype)
    assert str(soft.values.dtype) == f"torch.{dtype}"
    assert torch.allclose(soft.values.float(), expected.float(), rtol=2e-2, atol=1e-4)
    assert softcache.verify(workshop.cache).ok


@pytest.mark.parametrize("ids", [["ß", "日本", "a b", "\U0001f600", "x" * 1000], [-5, 2**63 - 1, -(2**63), 0, 7]])
def test_ids_of_all_kinds(workshop: Workshop, ids: list[Any]) -> None:
    workshop.samples(5, ids=ids)
    workshop.build()
    cache = workshop.open()
    assert cache["cls"].lookup(ids[::-1]).ids.tolist() == ids[::-1]
    assert cache["cls"].read([1, 0]).ids.tolist() == [ids[1], ids[0]]
    assert torch.allclose(cache["cls"].lookup(ids).values.double(), workshop.answers(), atol=1e-5)
    assert softcache.verify(workshop.cache).ok


def test_content_hash_as_id(workshop: Workshop) -> None:
    workshop.recipe["transfer_set"]["id"] = "content-hash"
    workshop.build()
    rows = workshop.open().rows.table()
    assert [bytes.fromhex(i) for i in rows["sample_id"].to_pylist()] == rows["content"].to_pylist()
    workshop.samples(40, change=lambda x: x.__setitem__(20, x[3]))
    with pytest.raises(AlignmentError, match="rows 3, 20 have equal content"):
        workshop.build(limit=30)


def test_one_row_and_strange_paths(workshop: Workshop) -> None:
    workshop.cache = workshop.cache.parent / "ein Ordner mit Ümläuten 日本"
    workshop.samples(1)
    assert workshop.build().rows == 1
    assert len(workshop.open()["cls"].lookup([0])) == 1
    assert softcache.verify(workshop.cache).ok


def test_splits(workshop: Workshop) -> None:
    workshop.build(limit=20)
    workshop.samples(12, ids=range(100, 112))
    workshop.build("transfer_set.split=test.hard")
    cache = workshop.open()
    assert cache.commit.splits == {"train": 20, "test.hard": 12}
    test = cache.split("test.hard")
    assert test.row_numbers.tolist() == list(range(20, 32))
    assert len(test["cls"].lookup([100, 111])) == 2
    with pytest.raises(AlignmentError, match=r"in split test\.hard does not cover 1 row: samples 3"):
        test["cls"].lookup([100, 3])
    assert len(test["cls"].to_hf()) == 12
    assert len(cache["cls"].to_hf(split="train")) == 20
    assert test.rows.table()["split"].unique().to_pylist() == ["test.hard"]
    with pytest.raises(softcache.SoftcacheError, match="no split"):
        cache.split("nope")
    with pytest.raises(AlignmentError, match="belongs to one split"):
        workshop.build("transfer_set.split=other")
    assert softcache.verify(workshop.cache).ok


def test_two_builders_at_once(workshop: Workshop) -> None:
    recipe = workshop.save()
    code = f"import softcache; softcache.build({str(recipe)!r}, {str(workshop.cache)!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert softcache.verify(workshop.cache).ok
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)


def test_on_a_remote_filesystem(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    workshop.cache = f"memory://{tmp_path.name}/cache"  # type: ignore[assignment]
    workshop.build(limit=20)
    workshop.build()
    cache = workshop.open()
    assert torch.allclose(cache["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)
    assert softcache.verify(str(workshop.cache)).ok
    assert workshop.build().up_to_date


def as_nobody(action: Any) -> str:
    """Run `action` in a child without root's rights; return the name of what it raises."""
    import multiprocessing

    def run(sender: Any) -> None:
        os.setgid(65534)
        os.setuid(65534)
        try:
            action()
            sender.send("nothing")
        except BaseException as e:  # noqa: BLE001
            sender.send(f"{type(e).__name__}: {e}")

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=run, args=(sender,))
    child.start()
    said = receiver.recv()
    child.join()
    return said


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_folder_that_cannot_be_written(workshop: Workshop, tmp_path: Path) -> None:
    workshop.build(limit=10)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder) != "/":
            folder.chmod(0o755)
    for path in [workshop.cache, *workshop.cache.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        read = as_nobody(lambda: workshop.open()["cls"].lookup(range(10)))
        wrote = as_nobody(lambda: connect(workshop.cache).create("data/x", b"1"))
    else:
        with pytest.raises(StorageError) as caught:
            workshop.build()
        read, wrote = "nothing", f"StorageError: {caught.value}"
    assert read == "nothing"
    assert wrote.startswith("StorageError")
    assert "Permission denied" in wrote
