"""Building: resume, growth, change, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
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
    CodecError,
    IncompatibleTarget,
    IncompleteCache,
    RecipeError,
    StorageError,
    TeacherError,
    TransferSetError,
)
from softcache.store.files import connect

COMMAND = [sys.executable, "-m", "softcache"]


def everything(cache: softcache.Cache) -> dict[str, Any]:
    """All rows of all targets, by id."""
    ids = cache.rows.table()["sample_id"].to_pylist()
    found: dict[str, Any] = {"ids": ids}
    for name in cache.targets:
        soft = cache[name].lookup(ids)
        found[name] = (soft.values.numpy().tobytes(), soft.mask.tolist())
    return found


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


def test_killed_in_the_middle(workshop: Workshop, tmp_path: Path) -> None:
    (workshop.folder / "kill_after").write_text("8")
    recipe = workshop.save()
    command = [sys.executable, "-c", f"import softcache; softcache.build({str(recipe)!r}, {str(workshop.cache)!r})"]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    first = workshop.calls()
    with pytest.raises(IncompleteCache, match="run the same build again"):
        workshop.open()
    targets = [json.loads(p.read_text())["target"] for p in (workshop.cache / "receipts").iterdir()]
    assert targets.count("rows") == 4
    done = min(targets.count("cls@t"), targets.count("feat@t"))
    assert done == 2
    summary = workshop.build()
    left = 40 - 10 * done
    assert summary.answered == left
    assert left <= workshop.calls() <= left + 8, "only what was unfinished, and canaries"
    assert first == 28
    (tmp_path / "other").mkdir()
    other = Workshop(tmp_path / "other")
    other.build()
    assert everything(workshop.open()) == everything(other.open())
    assert softcache.verify(workshop.cache).ok


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_what_has_begun(workshop: Workshop, number: int) -> None:
    workshop.samples(1200)
    slow = (
        (workshop.folder / "model.py")
        .read_text()
        .replace("        return {", "        time.sleep(0.01)\n        return {")
    )
    (workshop.folder / "model.py").write_text(slow)
    process = subprocess.Popen(
        [*COMMAND, "build", str(workshop.save()), "-o", str(workshop.cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while workshop_receipts(workshop) < 125 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "Run the same command again" in errors
    done = workshop_receipts(workshop)
    workshop.calls()
    assert done >= 125
    summary = workshop.build()
    assert summary.answered < 1200
    assert summary.rows == 1200


def workshop_receipts(workshop: Workshop) -> int:
    folder = workshop.cache / "receipts"
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_growth_keeps_what_is_there(workshop: Workshop) -> None:
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


def test_a_target_that_lags_behind_is_not_made_up(workshop: Workshop) -> None:
    workshop.build(limit=15)
    workshop.build("~tasks.feat")
    cache = workshop.open()
    assert len(cache["cls"].lookup(range(40))) == 40
    with pytest.raises(AlignmentError, match="no answer of feat@t for 25 rows"):
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


def test_a_changed_label_rewrites_rows_alone(workshop: Workshop) -> None:
    workshop.build()
    workshop.calls()
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"][5] = 4
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert workshop.build().answered == 0
    assert workshop.calls() == 0
    assert workshop.open().rows.table()["label"].to_pylist() == made["label"]


def changes(workshop: Workshop) -> dict[str, Any]:
    def code() -> None:
        path = workshop.folder / "model.py"
        path.write_text(path.read_text() + "\n# changed\n")

    return {
        "weights": (lambda: workshop.weights(1), "teacher.weights: "),
        "code": (code, "teacher.sources.model.py"),
        "config": (
            lambda: workshop.recipe["teachers"]["t"].update(arguments={"scale": 2.0}),
            "teacher.config.arguments.scale",
        ),
        "dtype": (
            lambda: workshop.recipe["tasks"]["cls"]["store"].update(dtype="float16"),
            "codec.dtype: float32 -> float16",
        ),
        "task": (lambda: workshop.recipe["tasks"]["cls"].update(labels=list("abcde")), "task.labels"),
        "value kind": (
            lambda: workshop.recipe["tasks"]["cls"].update(allow_masked=True),
            "task.allow_masked: False -> True",
        ),
    }


@pytest.mark.parametrize("what", ["weights", "code", "config", "dtype", "task", "value kind"])
@pytest.mark.parametrize("committed", [True, False])
def test_nothing_stale(workshop: Workshop, what: str, committed: bool) -> None:
    workshop.build()
    if not committed:
        for path in (workshop.cache / "commits").iterdir():
            path.unlink()
    change, said = changes(workshop)[what]
    change()
    with pytest.raises(IncompatibleTarget, match=said) as caught:
        workshop.build()
    assert caught.value.exit_code == 4
    workshop.recipe["teachers"]["u"] = workshop.recipe["teachers"].pop("t")
    for task in workshop.recipe["tasks"].values():
        task["teachers"] = ["u"]
    workshop.build()
    names = ("cls@t", "cls@u", "feat@t", "feat@u") if committed else ("cls@u", "feat@u")
    assert workshop.open().targets == names


def test_undeclared_change_is_caught_by_canaries(workshop: Workshop) -> None:
    helper = "import torch\n\n\ndef shift(x):\n    return x + 0\n"
    workshop.write("helper.py", helper)
    model = (
        (workshop.folder / "model.py")
        .read_text()
        .replace("self.head(x) * self.scale", "shift(self.head(x) * self.scale)")
    )
    workshop.write("model.py", "from helper import shift\n" + model)
    sys.modules.pop("helper", None)
    workshop.build(limit=15)
    workshop.write("helper.py", helper.replace("+ 0", "+ 0.5"))
    sys.modules.pop("helper", None)
    workshop.write("model.py", (workshop.folder / "model.py").read_text())
    code = (
        "import softcache, sys; sys.dont_write_bytecode = True\n"
        f"softcache.build({str(workshop.save())!r}, {str(workshop.cache)!r})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "answered otherwise than what is stored" in run.stderr
    assert workshop.open().commit.number == 1


def test_other_library_versions_only_warn(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.build(limit=10)
    monkeypatch.setattr("softcache.builder.prepare.units.versions", lambda target: {"torch": "9.9"})
    workshop.build()
    assert "built with other library versions" in caplog.text


@pytest.mark.parametrize(
    ("break_it", "error", "said"),
    [
        (lambda w: w.samples(40, ids=[0, 1, *range(1, 39)]), AlignmentError, "duplicate ids 1"),
        (lambda w: w.samples(3, ids=["a", None, "c"]), AlignmentError, "no value in rows 1"),
        (lambda w: w.samples(3, ids=[1, "a", 2]), TransferSetError, "table"),
        (lambda w: w.samples(3, ids=[1.5, 2.5, 3.5]), AlignmentError, "integers or strings"),
        (lambda w: w.samples(0), TransferSetError, "no samples"),
        (
            lambda w: w.samples(40, change=lambda x: x.__setitem__((7, 0), 999)),
            TransferSetError,
            r"1 sample \(7\).*this sample is broken",
        ),
        (
            lambda w: w.samples(40, change=lambda x: x.__setitem__(slice(5, 7), np.nan)),
            CodecError,
            r"2 samples \(5, 6\): NaN",
        ),
        (lambda w: w.recipe["teachers"]["t"].update(arguments={"scale": 3e38}), CodecError, "Inf"),
        (lambda w: w.recipe["tasks"]["cls"].update(classes=6), TeacherError, r"\[4, 5\].*\[4, 6\]"),
        (
            lambda w: w.recipe["tasks"]["cls"].update(value_kind="probs"),
            CodecError,
            "probs that are negative or do not sum",
        ),
        (
            lambda w: w.recipe["tasks"]["cls"].update(output="nope", name="x@t"),
            TeacherError,
            "no output 'nope'; it has cls, feat",
        ),
        (
            lambda w: w.recipe["transfer_set"].update(id="nope"),
            TransferSetError,
            "no column nope; there are id, x, label",
        ),
        (lambda w: w.recipe["transfer_set"].update(keep=["label", "nope"]), TransferSetError, "no column nope"),
        (lambda w: w.recipe["teachers"]["t"].update(reads=["nope"]), TransferSetError, "no column nope"),
        (lambda w: w.recipe["teachers"]["t"].update(weights="nope.safetensors"), RecipeError, "nope.safetensors"),
        (lambda w: w.recipe["teachers"]["t"].update(model="model:nope"), RecipeError, "has no attribute 'nope'"),
        (lambda w: w.recipe["teachers"]["t"].update(model="nope:make"), RecipeError, "No module named 'nope'"),
        (lambda w: w.recipe["teachers"]["t"].update(arguments={"nope": 1}), TeacherError, "unexpected keyword"),
        (lambda w: w.recipe["teachers"]["t"].update(model="model:preprocess"), TeacherError, "model:preprocess"),
        (lambda w: w.recipe["build"].update(device="cuda:7"), TeacherError, "cuda:7"),
        (lambda w: w.recipe["transfer_set"]["source"].update(callable="data:nope"), RecipeError, "nope"),
    ],
)
def test_bad_input(workshop: Workshop, break_it: Any, error: type[Exception], said: str) -> None:
    break_it(workshop)
    with pytest.raises(error, match=said):
        workshop.build()
    with pytest.raises(softcache.SoftcacheError):
        workshop.open()


def test_overflow_suggests_a_wider_dtype(workshop: Workshop) -> None:
    workshop.recipe["teachers"]["t"]["arguments"] = {"scale": 1e5}
    with pytest.raises(CodecError, match=r"too large for float16 \(store bfloat16 or float32\)"):
        workshop.build("tasks.cls.store.dtype=float16")
    workshop.build("tasks.cls.store.dtype=bfloat16")
    soft = workshop.open()["cls"].lookup(range(40))
    assert soft.values.dtype == torch.bfloat16
    assert torch.allclose(soft.values.double(), workshop.answers() * 1e5, rtol=2**-8)
    table = workshop.open()["cls"].table()
    assert str(table.schema.field("values").type.value_type) == "uint16"


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


def test_bad_samples_can_be_skipped(workshop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[7, 0], x[12], x[33] = 999, np.nan, np.nan

    workshop.samples(40, change=change)
    summary = workshop.build("build.on_bad_sample=skip")
    assert [t.valid for t in summary.targets] == [37, 37]
    cache = workshop.open()
    soft = cache["cls"].lookup(range(40))
    bad = torch.tensor([i in (7, 12, 33) for i in range(40)])
    assert torch.equal(soft.mask, ~bad)
    assert torch.isnan(soft.values[bad]).all()
    assert torch.isfinite(soft.values[~bad]).all()
    assert torch.allclose(soft.values[~bad].double(), workshop.answers()[~bad], atol=1e-5)
    skipped = cache.commit.targets["cls@t"].skipped
    assert [s[0] for s in skipped] == [7, 12, 33]
    assert "broken" in skipped[0][2]
    assert "NaN" in skipped[1][2]
    loss = softcache.distillation_loss(torch.zeros(40, 5), soft, 2.0)
    assert torch.isfinite(loss)
    assert softcache.verify(workshop.cache).ok


def test_no_answer_at_all_is_not_published(workshop: Workshop) -> None:
    workshop.samples(5, change=lambda x: x.fill(np.nan))
    with pytest.raises(TeacherError, match="no sample has an answer"):
        workshop.build("build.on_bad_sample=skip")


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
    with pytest.raises(AlignmentError, match=r"in split test\.hard for 1 row: samples 3"):
        test["cls"].lookup([100, 3])
    assert len(test["cls"].to_hf()) == 12
    assert len(cache["cls"].to_hf(split="train")) == 20
    assert test.rows.table()["split"].unique().to_pylist() == ["test.hard"]
    with pytest.raises(softcache.SoftcacheError, match="no split"):
        cache.split("nope")
    with pytest.raises(AlignmentError, match="belongs to one split"):
        workshop.build("transfer_set.split=other")
    assert softcache.verify(workshop.cache).ok


def test_lowered_limit_is_refused(workshop: Workshop) -> None:
    workshop.build()
    with pytest.raises(AlignmentError, match="a cache only grows"):
        workshop.build(limit=5)


def test_other_content_columns_are_refused(workshop: Workshop) -> None:
    workshop.build()
    workshop.recipe["teachers"]["u"] = workshop.recipe["teachers"].pop("t") | {"reads": ["x", "label"]}
    with pytest.raises(IncompatibleTarget, match="content hashes cover x"):
        workshop.build("tasks.cls.teachers=[u]", "tasks.feat.teachers=[u]")


def test_fragment_rows_changed_in_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    for path in (workshop.cache / "commits").iterdir():
        path.unlink()
    workshop.calls()
    assert workshop.build("build.fragment_rows=7").answered == 0
    assert workshop.calls() == 0


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
