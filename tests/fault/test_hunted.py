"""What a hunt for breaking inputs found once, and must not find again."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.audit.status import status
from softcache.cli import main
from softcache.errors import (
    AlignmentError,
    CodecError,
    FormatError,
    IncompatibleTarget,
    IntegrityError,
    RecipeError,
    SoftcacheError,
    TaskError,
    TeacherError,
    TransferSetError,
    UnsupportedVersion,
)
from softcache.store.documents import dump_document, load_document
from softcache.store.files import connect
from softcache.store.gc import collect, find_garbage


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_more_shards_than_mappings(workshop: Workshop) -> None:
    """Shards that a batch is about to read are never unmapped to make room."""
    workshop.build("build.fragment_rows=1")
    run = python(
        "import softcache, softcache.read.span as s, numpy as np; s.MAX_MAPPINGS = 5\n"
        f"t = softcache.open({str(workshop.cache)!r})['cls']; all_rows = t.read(list(range(40))).values\n"
        "rng = np.random.default_rng(0)\n"
        "for _ in range(200):\n"
        "    rows = rng.integers(0, 40, rng.integers(1, 40))\n"
        "    assert t.read(rows).values.equal(all_rows[rows]) and t.lookup(rows).values.equal(all_rows[rows])\n"
        "assert len(s._mapped) <= 80, len(s._mapped)"
    )
    assert run.returncode == 0, run.stderr


def test_a_thread_that_reads_at_exit(workshop: Workshop) -> None:
    workshop.build()
    code = (
        f"import softcache, threading, time\nt = softcache.open({str(workshop.cache)!r})['cls']\n"
        "def loop():\n    while True:\n        t.lookup(list(range(40)) * 20)\n"
        "for _ in range(3):\n    threading.Thread(target=loop, daemon=True).start()\ntime.sleep(0.3)\n"
    )
    # Torch itself may abort (-6) when a daemon thread is in one of its operators then; it must not be a segfault.
    assert -11 not in [python(code).returncode for _ in range(3)]


def test_lost_shards_are_made_anew(workshop: Workshop) -> None:
    workshop.build()
    for target in ("cls@t", "feat@t", "rows"):
        lost = next(p for p in (workshop.cache / f"data/{target}").rglob("*") if p.is_file())
        data = lost.read_bytes()
        lost.unlink()
        assert not softcache.verify(workshop.cache).ok
        workshop.calls()
        assert workshop.build().answered == (0 if target == "rows" else 10)
        assert lost.read_bytes() == data
        assert softcache.verify(workshop.cache).ok


def test_a_lost_shard_of_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    next((workshop.cache / "commits").iterdir()).unlink()
    lost = next((workshop.cache / "data/cls@t").iterdir())
    lost.unlink()
    workshop.build()
    assert lost.exists()
    assert softcache.verify(workshop.cache).ok


def test_answers_are_kept_when_a_later_sample_fails(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__((38, 0), 999))
    with pytest.raises(TransferSetError, match="38"):
        workshop.build()
    done = [json.loads(p.read_text())["target"] for p in (workshop.cache / "receipts").iterdir()]
    assert done.count("cls@t") == 3


def test_content_must_cover_what_is_read(workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match=r"teacher t reads x, which is not in it"):
        workshop.build("transfer_set.content=[label]")


def test_nothing_kept_settles(workshop: Workshop) -> None:
    workshop.build("transfer_set.keep=[]", "~tasks.cls.label")
    assert workshop.build("transfer_set.keep=[]", "~tasks.cls.label").up_to_date


@pytest.mark.parametrize("override", ["transfer_set.keep=[]", "transfer_set.keep=[label, x2]"])
def test_kept_columns_do_not_drift(workshop: Workshop, override: str) -> None:
    workshop.build("~tasks.cls.label")
    workshop.write(
        "data.py", (workshop.folder / "data.py").read_text().replace('"label"]}', '"label"], "x2": made["id"]}')
    )
    with pytest.raises(IncompatibleTarget, match=r"keep\.") as caught:
        workshop.build("~tasks.cls.label", override)
    assert "absent" in str(caught.value)
    assert workshop.open().commit.number == 1


def test_kept_types_do_not_drift(workshop: Workshop) -> None:
    workshop.build("~tasks.cls.label", limit=20)
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [str(label) for label in made["label"]]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    with pytest.raises(IncompatibleTarget, match=r"keep\.label: int64 -> string"):
        workshop.build("~tasks.cls.label")


def test_nulls_deep_in_kept_columns(workshop: Workshop) -> None:
    code = (
        (workshop.folder / "data.py")
        .read_text()
        .replace('"label"]}', '"label"], "boxes": [[1, None]] * len(made["id"])}')
    )
    workshop.write("data.py", code)
    with pytest.raises(TransferSetError, match="'boxes' lacks values for samples 0, 1"):
        workshop.build("transfer_set.keep=[label, boxes]")


def test_a_split_changed_in_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    next((workshop.cache / "commits").iterdir()).unlink()
    workshop.build("transfer_set.split=test")
    assert workshop.open().commit.splits == {"test": 40}
    assert workshop.open().rows.table()["split"].unique().to_pylist() == ["test"]


def test_helpers_are_read_afresh(workshop: Workshop, tmp_path: Path) -> None:
    """The code that is hashed is the code that runs: after an edit, and beside another recipe's module of that name."""
    model = (
        (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * helper.SCALE")
    )
    workshop.write("model.py", "import helper\n" + model)
    workshop.recipe["teachers"]["t"]["code"] = ["model.py", "helper.py"]
    for scale in (1, 7):
        workshop.write("helper.py", f"SCALE = {scale}\n")
        workshop.cache = tmp_path / f"cache{scale}"
        workshop.build()
        found = workshop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, workshop.answers() * scale, atol=1e-4)
    (tmp_path / "second").mkdir()
    other = Workshop(tmp_path / "second")
    other.write("model.py", "import helper\n" + model)
    other.write("helper.py", "SCALE = 5\n")
    other.build()
    assert torch.allclose(other.open()["cls"].lookup(range(40)).values.double(), other.answers() * 5, atol=1e-4)
    assert "helper" not in sys.modules
    assert "model" not in sys.modules


def test_packages_and_late_imports(workshop: Workshop) -> None:
    (workshop.folder / "pkg").mkdir()
    workshop.write("pkg/__init__.py", "")
    workshop.write("pkg/parts.py", "SCALE = 3\n")
    model = (workshop.folder / "model.py").read_text()
    workshop.write(
        "pkg/net.py",
        "from .parts import SCALE\n"
        + model.replace("self.scale}", "late()}").replace("return {", "from pkg import parts\n        return {"),
    )
    workshop.recipe["teachers"]["t"]["model"] = "pkg.net:Linear"
    text = (
        (workshop.folder / "pkg/net.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * parts.SCALE")
    )
    workshop.write(
        "pkg/net.py",
        text.replace("HERE = pathlib.Path(__file__).parent", "HERE = pathlib.Path(__file__).parent.parent"),
    )
    workshop.build()
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers() * 3, atol=1e-4)


def test_folders_without_init_are_read_afresh(workshop: Workshop, tmp_path: Path) -> None:
    (workshop.folder / "parts").mkdir()
    model = (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * SCALE")
    workshop.write("model.py", "from parts.sizes import SCALE\n" + model)
    for scale in (2, 9):
        workshop.write("parts/sizes.py", f"SCALE = {scale}\n")
        workshop.cache = tmp_path / f"cache{scale}"
        workshop.build()
        found = workshop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, workshop.answers() * scale, atol=1e-4)


def test_code_behind_partials_and_instances_counts(workshop: Workshop) -> None:
    model = (workshop.folder / "model.py").read_text()
    workshop.write("model.py", model + "\n\nimport functools\nmake = functools.partial(Linear, scale=2.0)\n")
    workshop.recipe["teachers"]["t"]["model"] = "model:make"
    workshop.build()
    workshop.write("model.py", (workshop.folder / "model.py").read_text().replace("scale=2.0", "scale=9.0"))
    with pytest.raises(IncompatibleTarget, match=r"sources\.model\.py"):
        workshop.build()


def test_outside_files_of_one_name_both_count(workshop: Workshop, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "util.py").write_text(f"# {folder}\n")
    workshop.recipe["teachers"]["t"]["code"] = ["model.py", "../x/util.py", "../y/util.py"]
    workshop.build()
    (tmp_path / "x/util.py").write_text("# changed\n")
    with pytest.raises(IncompatibleTarget, match=r"util\.py"):
        workshop.build()


def test_moved_weights_are_the_same_weights(workshop: Workshop) -> None:
    workshop.build()
    (workshop.folder / "weights.safetensors").rename(workshop.folder / "renamed.safetensors")
    assert workshop.build("teachers.t.weights=renamed.safetensors").up_to_date


def test_exit_in_a_recipe_is_no_success(workshop: Workshop) -> None:
    workshop.write("data.py", "import sys\n\n\ndef samples():\n    sys.exit(0)\n")
    result = CliRunner().invoke(main, ["build", str(workshop.save()), "-o", str(workshop.cache)])
    assert result.exit_code == 2
    assert "asked the interpreter to exit" in result.stderr


def test_status_settles(workshop: Workshop) -> None:
    workshop.build()
    workshop.samples(40, change=lambda x: x.__setitem__(3, 1.0))
    workshop.build()
    assert status(workshop.cache).complete


def test_status_of_a_planned_change(workshop: Workshop) -> None:
    workshop.build()
    workshop.samples(40, change=lambda x: x.__setitem__((3, 0), 999))
    with pytest.raises(TransferSetError):
        workshop.build()
    found = status(workshop.cache)
    assert not found.complete
    assert found.pending_fragments == 1


def test_skipped_lists_what_is_skipped_now(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(3, np.nan))
    workshop.build("build.on_bad_sample=skip")
    assert workshop.open().commit.targets["cls@t"].skipped == [[3, 0, "NaN"]]
    workshop.samples(40)
    workshop.build("build.on_bad_sample=skip")
    target = workshop.open().commit.targets["cls@t"]
    assert (target.skipped, target.skipped_rows) == ([], 0)


def test_a_dropped_target_can_be_built_otherwise(workshop: Workshop) -> None:
    workshop.build("build.fragment_rows=100")
    workshop.samples(40, change=lambda x: x.__setitem__(3, 1.0))
    workshop.build("~tasks.feat")
    assert workshop.open().targets == ("cls@t",)
    workshop.build("tasks.feat.store.dtype=float32")
    assert workshop.open()["feat"].lookup([1]).values.dtype == torch.float32


def test_canaries_look_at_both_ends_and_at_answered_rows(workshop: Workshop) -> None:
    workshop.samples(30, change=lambda x: x.__setitem__(slice(0, 4), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    workshop.build(limit=30)
    assert workshop.open().commit.rows == 30


def test_labels_that_are_none_do_not_count(workshop: Workshop) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [i if n < 20 else -1 for n, i in enumerate(workshop.answers().argmax(1).tolist())]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert workshop.build().targets[0].accuracy == 1.0


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


def test_gc_leaves_what_a_build_takes_up_again(workshop: Workshop) -> None:
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


def test_verify_of_a_newer_format_is_not_a_mismatch(workshop: Workshop) -> None:
    workshop.build()
    marker = workshop.cache / "softcache.json"
    marker.write_bytes(dump_document(load_document(marker.read_bytes(), "x") | {"version": 2}))
    for command in ("verify", "info", "status", "gc"):
        assert CliRunner().invoke(main, [command, str(workshop.cache)]).exit_code == 4


def test_members_of_later_versions_are_passed_over(workshop: Workshop) -> None:
    workshop.build()
    path = workshop.cache / "commits/00000000000000000001.json"
    body = load_document(path.read_bytes(), "x")
    body["note"] = "from the future"
    body["targets"]["cls@t"]["note"] = 1
    path.write_bytes(dump_document(body))
    assert len(workshop.open()["cls"].lookup([1])) == 1
    assert softcache.verify(workshop.cache).ok


def mutations(value: Any) -> list[Any]:
    others = [None, -1, 2**70, 1e308, "x", "../x", [], {}, [None], {"a": None}, True]
    return [o for o in others if o != value or type(o) is not type(value)]


@pytest.mark.parametrize("where", ["commits", "receipts"])
def test_forged_documents_give_typed_errors(workshop: Workshop, where: str) -> None:
    """Every member of a commit or a receipt, replaced by everything else, with the right hash at its end."""
    workshop.samples(10)
    workshop.build()
    path = sorted((workshop.cache / where).iterdir())[0]
    body = load_document(path.read_bytes(), "x")
    tried = 0

    def places(at: Any, way: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        inner = at.items() if isinstance(at, dict) else enumerate(at[:1]) if isinstance(at, list) else ()
        return [way, *(p for key, value in inner for p in places(value, (*way, key)))]

    for way in places(body, ())[1:]:
        for mutation in mutations(None):
            forged = json.loads(json.dumps(body))
            at = forged
            for key in way[:-1]:
                at = at[key]
            at[way[-1]] = mutation
            path.write_bytes(dump_document(forged))
            for act in (_use, softcache.verify, status, lambda c: find_garbage(connect(c))):
                with contextlib.suppress(SoftcacheError):
                    act(workshop.cache)
                tried += 1
    assert tried > 500


def _use(path: Path) -> None:
    cache = softcache.open(path)
    for name in cache.targets:
        cache[name].lookup([1, 2])
    cache.rows.table()


def test_pipes_do_not_hang_readers(workshop: Workshop) -> None:
    workshop.build()
    shard = sorted((workshop.cache / "data/cls@t").iterdir())[0]
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(IntegrityError, match="not a regular file"):
        workshop.open()["cls"].lookup([1])
    commit = workshop.cache / "commits/00000000000000000001.json"
    commit.unlink()
    os.mkfifo(commit)
    with pytest.raises(SoftcacheError, match="not a regular file"):
        workshop.open()


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("[x]", "returned list"),
        ("{'cls': [1], 'feat': x}", "is list"),
        ("{'cls': self.head(x).to_sparse(), 'feat': x}", "sparse"),
        ("{'cls': self.head(x).to('meta'), 'feat': x}", "meta"),
        ("{'cls': self.head(x).long(), 'feat': self.features(x)}", "int64"),
        ("{1: x}", "no output"),
        ("{'cls': self.head(x)[0], 'feat': self.features(x)}", "the task says"),
        ("{'cls': self.head(x).sum(), 'feat': self.features(x)}", "the task says"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_teachers_that_answer_oddly(workshop: Workshop, expression: str, said: str) -> None:
    model = (workshop.folder / "model.py").read_text()
    head, _, tail = model.partition("        return {")
    workshop.write("model.py", f"{head}        return {expression}\n" + tail.partition("\n")[2])
    with pytest.raises(TeacherError, match=said):
        workshop.build()


def test_teachers_whose_answers_are_views_or_double(workshop: Workshop) -> None:
    model = (workshop.folder / "model.py").read_text()
    answer = "return {'cls': self.head(x).double().T.contiguous().T, 'feat': self.features(x)[:, :3]}"
    head, _, tail = model.partition("        return {")
    workshop.write("model.py", f"{head}        {answer}\n" + tail.partition("\n")[2])
    workshop.build()
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)


@pytest.mark.parametrize(
    "override",
    [
        "x=2024-13-45",
        "x=0x_",
        "x=!!map foo",
        "x=!!int foo",
        "x=" + "1" * 5000,
        "x=" + "[" * 20000,
        "teachers.t.arguments.a=!!binary aGk=",
        "teachers.t.arguments.a={1: 2}",
        'teachers.t.weights="a\\0b"',
        "teachers.t.reads=[x, x]",
        "transfer_set.keep=[label, label]",
        "transfer_set.split=all",
        "transfer_set.source.arguments={a: .inf}",
    ],
)
def test_odd_recipes(workshop: Workshop, override: str) -> None:
    with pytest.raises(RecipeError):
        workshop.build(override)


def test_merge_keys_are_yaml(workshop: Workshop) -> None:
    path = workshop.save()
    text = path.read_text().replace("build:", "defaults: &d {batch_size: 3}\nbuild:\n  <<: *d", 1)
    path.write_text(text.replace("  batch_size: 4\n", ""))
    with pytest.raises(RecipeError, match="defaults") as caught:
        softcache.build(path, workshop.cache)
    assert len(caught.value.problems) == 1


def test_odd_outputs(workshop: Workshop) -> None:
    for output in ("", "a\0b", "simplecache::memory://x"):
        with pytest.raises(SoftcacheError):
            softcache.build(workshop.save(), output)


def test_wrong_use_of_targets(workshop: Workshop) -> None:
    workshop.build()
    cache = workshop.open()
    target = cache["cls"]
    soft = target.lookup([1, 2])
    for ids in ("12", b"1", [[1, 2]], np.zeros((2, 2), int), torch.zeros(1, 1, dtype=torch.int64)):
        with pytest.raises(AlignmentError):
            target.lookup(ids)
    assert target.lookup([torch.tensor(3), np.int64(4)]).ids.tolist() == [3, 4]
    with pytest.raises(AlignmentError, match="views has the shape"):
        target.lookup([1, 2, 3], views=[0, 0])
    for temperature in ("a", None, [1.0], object()):
        with pytest.raises(TaskError):
            soft.log_probs(temperature)
    assert torch.isfinite(soft.log_probs(1e-39)).any()
    assert not torch.isnan(soft.log_probs(1e-39)).any()
    assert len(soft[np.int64(1)]) == len(soft[torch.tensor(1)]) == 1
    assert cache.get("nope") is None
    assert "cls" in cache
    assert "nope" not in cache
    assert "cls" in softcache.SoftBatch({"cls@t": soft})
    with pytest.raises(TaskError, match="not a target"):
        softcache.ensemble(["cls"])  # type: ignore[list-item]
    with pytest.raises(AlignmentError, match="field 'soft' of its own"):
        next(iter(softcache.join([{"id": [1], "soft": 1}], cache, id="id")))


def test_small_probabilities_in_float16(workshop: Workshop) -> None:
    """They would be rounded to nothing, which no temperature brings back."""
    model = (
        (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "(self.head(x) * 4).softmax(1)")
    )
    workshop.write("model.py", model)
    workshop.recipe["tasks"]["cls"]["value_kind"] = "probs"
    with pytest.raises(CodecError, match="a probability too small for float16"):
        workshop.build("tasks.cls.store.dtype=float16")
    workshop.build("tasks.cls.store.dtype=float32")
    expected = torch.log_softmax(workshop.answers(), 1)
    found = workshop.open()["cls"].lookup(range(40)).log_probs(4.0)
    assert torch.allclose(found.double(), expected, atol=1e-3)


def test_a_corrupt_local_copy_is_fetched_again(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    workshop.cache = f"memory://{tmp_path.name}/c"  # type: ignore[assignment]
    workshop.build()
    for path in (tmp_path / "home/files").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)


def test_builds_in_threads_take_turns(tmp_path: Path) -> None:
    """Both recipes have a `model.py`; each cache holds its own teacher's answers."""
    shops = []
    for scale in (2, 3):
        (tmp_path / str(scale)).mkdir()
        shop = Workshop(tmp_path / str(scale))
        model = (shop.folder / "model.py").read_text().replace("self.head(x) * self.scale", f"self.head(x) * {scale}")
        shop.write("model.py", model)
        shop.save()
        shops.append((shop, scale))
    path = list(sys.path)
    threads = [threading.Thread(target=shop.build) for shop, _ in shops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.path == path
    for shop, scale in shops:
        found = shop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, shop.answers() * scale, atol=1e-4)


def test_what_was_imported_stays(workshop: Workshop) -> None:
    """A script beside its recipe, its packages, libraries in an environment there: the same objects afterwards."""
    for name, text in {
        "train.py": "class Data: ...\n",
        "src/mine/__init__.py": "class C: ...\n",
        "torch/notes.py": "",
        "numpy/x.py": "",
        "types.py": "",
        "softcache/notes.py": "",
    }.items():
        (workshop.folder / name).parent.mkdir(parents=True, exist_ok=True)
        workshop.write(name, text)
    script = f"""
import pickle, sys
sys.path[:0] = ["src", "."]
import mine, model, torch, numpy, softcache
class D: ...
before = dict(sys.modules)
softcache.build("recipe.yaml", {str(workshop.cache)!r})
changed = [n for n, m in before.items() if sys.modules.get(n) is not m]
assert not changed, changed
pickle.dumps([D(), mine.C(), model.Linear])
softcache.open({str(workshop.cache)!r})["cls"].lookup([1])
"""
    workshop.write("run.py", script)
    workshop.save()
    root = str(Path(softcache.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "run.py"],
        cwd=workshop.folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root, "PYTHONSAFEPATH": "1"},
    )
    assert run.returncode == 0, run.stderr


def test_a_fragment_of_skipped_samples_alone(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(slice(0, 10), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    assert workshop.build("build.on_bad_sample=skip").targets[0].valid == 30


def test_slices_of_a_split_beside_gaps(workshop: Workshop) -> None:
    workshop.samples(20, ids=range(100, 120))
    workshop.build("transfer_set.split=val", "~tasks.feat")
    workshop.samples(40)
    workshop.build()
    train = workshop.open().split("train")
    assert train["feat"].read(slice(None)).ids.tolist() == list(range(40))
    assert len(train["cls"].read(slice(0, 30))) == 10


def test_two_recipes_in_turn_settle(workshop: Workshop) -> None:
    done = []
    for _ in range(3):
        workshop.samples(20, ids=range(100, 120))
        done.append(workshop.build("transfer_set.split=val").up_to_date)
        workshop.samples(40)
        done.append(workshop.build().up_to_date)
    assert done == [False, False, True, True, True, True]
    assert workshop.open().commit.number == 2
