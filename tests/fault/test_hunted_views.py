"""Inputs that a hunt through views, hygiene and evaluation found to break something, one test each."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from conftest import MODEL, Workshop

import softcache
from softcache.assess.evaluate import evaluate
from softcache.assess.validate import validate
from softcache.cli import main
from softcache.errors import (
    AlignmentError,
    AugmentationError,
    IntegrityError,
    RecipeError,
    TaskError,
    TeacherError,
    TransferSetError,
)
from softcache.transfer import libraries

AUGMENT = """
import pathlib, random, time
import numpy as np
import torch

COUNT = [0]


def noisy(x):
    return (np.asarray(x) + random.random()).astype(np.float32)


def drifting(x):
    COUNT[0] += 1
    return noisy(x) + np.float32(COUNT[0] > 56)


def slow(x):
    a = torch.rand(4)
    time.sleep(0.002)
    return (torch.as_tensor(np.array(x)) + a + torch.rand(4)).numpy()


def shifted(x):
    return noisy(x) + np.float32((pathlib.Path(__file__).parent / "shift").read_text())


def with_rng(x, rng):
    return (np.asarray(x) + rng.random()).astype(np.float32)


def sometimes(sample, rng):
    return {} if rng.random() < 0.5 else {"x": np.asarray(sample["x"]) * 2}


def picky(x):
    if x[1] > 500:
        raise ValueError("too large")
    return noisy(x)


class Mix:
    def draw(self, x, rng):
        return {"weight": float(rng.random())}

    def apply(self, x, weight, partner):
        return (weight * np.asarray(x) + (1 - weight) * np.asarray(partner)).astype(np.float32)


class Picky(Mix):
    def apply(self, x, weight, partner):
        if x[1] > 500:
            raise ValueError("too large")
        return super().apply(x, weight, partner)
"""


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    workshop.write("augment.py", AUGMENT)
    del workshop.recipe["tasks"]["feat"]
    workshop.recipe["augmentation"] = {"transform": "augment:noisy", "column": "x", "views": 2}
    return workshop


def transform(shop: Workshop, name: str) -> Any:
    scope: dict[str, Any] = {}
    exec(AUGMENT, scope)
    return scope[name]


def students(shop: Workshop) -> list[dict[str, Any]]:
    made = json.loads((shop.folder / "samples.json").read_text())
    rows = np.array(made["x"], np.float32).reshape(-1, 4)
    return [{"id": i, "x": x} for i, x in zip(made["id"], rows, strict=True)]


def test_a_second_teacher_of_one_build_is_compared(shop: Workshop) -> None:
    """The transform comes out otherwise once the first teacher has seen all of it."""
    shop.samples(20)
    shop.recipe["augmentation"]["transform"] = "augment:drifting"
    shop.recipe["teachers"]["u"] = shop.recipe["teachers"]["t"] | {"arguments": {"scale": 2.0}}
    shop.recipe["tasks"]["cls"]["teachers"] = ["t", "u"]
    with pytest.raises(AlignmentError, match=r"sample \d+, view \d: made otherwise than the view that is recorded"):
        shop.build()


def test_a_teacher_that_draws_beside_the_transform(shop: Workshop) -> None:
    shop.write("model.py", MODEL.replace('return {"cls"', 'torch.rand(64)\n        return {"cls"'))
    shop.recipe["augmentation"]["transform"] = "augment:slow"
    with pytest.raises(TeacherError, match="teacher t draws random numbers while it answers"):
        shop.build()
    shop.build("augmentation.transform=augment:with_rng")
    data = softcache.views(students(shop), shop.open(), transform(shop, "with_rng"), id="id", check="always")
    for place in range(40):
        data[place]


def test_a_changed_partner_is_refused(shop: Workshop) -> None:
    shop.recipe["augmentation"]["transform"] = "augment:Mix"
    shop.build()
    mixed = [p["partner"] for p in shop.open().parameters(np.arange(80))]
    partner = next(p for i, p in enumerate(mixed) if p // 10 != i // 20)

    def change(x: np.ndarray) -> None:
        x[partner] += 1

    shop.samples(40, change=change)
    with pytest.raises(AlignmentError, match=rf"samples {partner} have changed, and views of other samples have them"):
        shop.build()


def test_versions_of_all_views(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that another version has rounded otherwise stays a view when newer ones are added."""
    with monkeypatch.context() as patch:
        patch.setattr(libraries.np, "__version__", "0.0")
        shop.write("augment.py", AUGMENT.replace("random.random())", "random.random() * (1 + 1e-7))"))
        shop.build("augmentation.views=1", "augmentation.code=[model.py]")
    shop.write("augment.py", AUGMENT)
    shop.build("augmentation.code=[model.py]")
    augmentation = shop.open().commit.augmentation
    assert [versions["numpy"] for versions in augmentation["versions"]] == ["0.0", np.__version__]
    data = softcache.views(students(shop), shop.open(), transform(shop, "noisy"), id="id", check="always")
    for epoch in range(2):
        data.set_epoch(epoch)
        for place in range(40):
            data[place]


def test_a_view_without_anything_in_it(shop: Workshop) -> None:
    shop.recipe["augmentation"] |= {"transform": "augment:sometimes", "column": None}
    shop.build()
    shop.recipe["tasks"]["again"] = shop.recipe["tasks"]["cls"] | {"output": "cls"}
    shop.build()
    assert shop.open()["again"].stats["skipped_rows"] == 0


def test_row_numbers_of_checks(shop: Workshop) -> None:
    shop.build()
    cache = shop.open()
    for rows in ([-1], [80], [10**6], ["a"], [1.0], 3, [[1]], [[1], [1, 2]]):
        for read in (cache.checks, cache.parameters):
            with pytest.raises(AlignmentError, match="row"):
                read(rows)


def test_sequences_of_views_that_cannot_be_made(shop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[10:15, 1] = 600

    shop.write(
        "model.py", MODEL.replace('return {"cls"', 'return {"frames": self.head(x)[:, None].repeat(1, 3, 1), "cls"')
    )
    task = {"kind": "sequence", "classes": 5, "value_kind": "logits", "teachers": ["t"]}
    shop.recipe["tasks"] = {"frames": task | {"store": {"dtype": "float32"}}}
    shop.samples(40, change=change)
    shop.build("augmentation.transform=augment:picky", "build.on_bad_sample=skip")
    data = softcache.views(students(shop), shop.open(), transform(shop, "picky"), id="id", check="always")
    for place in range(40):
        assert bool(data[place]["soft"]["frames"].mask.any()) == (not 10 <= place < 15)
    batch = data.__getitems__(list(range(8, 20)))
    assert batch.soft["frames"].mask.all(1).tolist() == [not 10 <= place < 15 for place in range(8, 20)]


@pytest.mark.parametrize("name", ["picky", "Picky"])
def test_a_fragment_without_any_view(shop: Workshop, name: str) -> None:
    """The student gets such samples as they are, without an answer."""

    def change(x: np.ndarray) -> None:
        x[10:20, 1] = 600

    shop.samples(40, change=change)
    shop.recipe["augmentation"]["transform"] = f"augment:{name}"
    shop.build("build.on_bad_sample=skip")
    cache, made = shop.open(), transform(shop, name)
    assert cache["cls"].stats["skipped_rows"] == 20
    data = softcache.views(students(shop), cache, made() if isinstance(made, type) else made, id="id", check="always")
    for place in range(40):
        sample = data[place]
        assert bool(sample["soft"]["cls@t"].mask[0]) == (place // 10 != 1)
        assert place // 10 != 1 or np.array_equal(sample["x"], students(shop)[place]["x"])
    assert softcache.verify(shop.cache).ok


def test_an_image_folder_fragment_that_cannot_be_decoded(workshop: Workshop) -> None:
    from PIL import Image

    folder = workshop.folder / "photos/kind"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("L", (2, 2), i).save(folder / f"{i}.png")
    for i in (2, 3):
        (folder / f"{i}.png").write_bytes(b"no image")
    workshop.write("seen.py", "import numpy as np\ndef see(s):\n    return np.float32(s['image']).ravel()\n")
    workshop.write(
        "augment.py", "import numpy as np\ndef plus(image, rng):\n    return np.array(image) + rng.integers(9)\n"
    )
    workshop.recipe["transfer_set"] = {"source": {"type": "images", "folder": "photos"}, "id": "path"}
    workshop.recipe["teachers"]["t"] |= {"preprocess": "seen:see", "reads": ["image"]}
    workshop.recipe["tasks"]["cls"]["label"] = None
    workshop.recipe["augmentation"] = {"transform": "augment:plus", "column": "image", "views": 2}
    workshop.build("build.on_bad_sample=skip", "build.fragment_rows=4")
    assert workshop.open()["cls"].stats["skipped_rows"] == 4
    assert "pillow" in workshop.open().commit.augmentation["versions"][0]


def test_resumed_with_fewer_views(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.recipe["augmentation"]["views"] = 1
    shop.build()
    shop.samples(60)
    (shop.folder / "kill_after").write_text("1000000")
    ready = shop.cache.with_name("ready")
    shutil.copytree(shop.cache, ready)
    shop.build("augmentation.views=4")
    plans = {p.name for p in (shop.cache / "plan").iterdir()}
    for path in (shop.cache / "plan").iterdir():
        shutil.copy(path, ready / "plan" / path.name)
    shop.cache = ready  # as a build that was killed right after it had planned
    shop.build("augmentation.views=3")
    cache = shop.open()
    assert plans < {p.name for p in (ready / "plan").iterdir()}
    assert cache.commit.views == 3
    assert cache.commit.rows == 180
    data = softcache.views(students(shop), cache, transform(shop, "noisy"), id="id", check="always")
    data.set_epoch(2)
    data[59]


@pytest.mark.parametrize("name", ["shifted", "Mix"])
def test_views_of_samples_that_are_labelled_anew(shop: Workshop, name: str) -> None:
    """Teachers have answered: `rows` is written again, and what it records is what they saw."""
    shop.recipe["augmentation"]["transform"] = f"augment:{name}"
    shop.write("shift", "0")
    shop.build()
    before = shop.open()
    shop.calls()
    shop.write("shift", "1")
    relabel(shop, [4 - i % 5 for i in range(40)])
    shop.build()
    after = shop.open()
    assert shop.calls() == 0
    assert after.rows.table().column("label").to_pylist()[::2] == [4 - i % 5 for i in range(40)]
    assert np.array_equal(after.checks(np.arange(80)), before.checks(np.arange(80)))
    assert after.parameters(np.arange(80)) == before.parameters(np.arange(80))
    assert after.commit.augmentation == before.commit.augmentation
    assert softcache.verify(shop.cache).ok


def test_views_of_an_unfinished_build_that_is_labelled_anew(shop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[35, 0] = 1000

    shop.recipe["augmentation"]["transform"] = "augment:shifted"
    shop.write("shift", "0")
    shop.samples(40, change=change)
    with pytest.raises(TransferSetError, match="this sample is broken"):
        shop.build()
    shop.calls()
    shop.samples(40)
    relabel(shop, [4 - i % 5 for i in range(40)])
    shop.write("shift", "1")
    with pytest.raises(AlignmentError, match="sample 0, view 0: made otherwise than the view that is recorded"):
        shop.build()
    shop.write("shift", "0")
    shop.build()
    data = softcache.views(students(shop), shop.open(), transform(shop, "noisy"), id="id", check="always")
    for place in range(40):
        data[place]
    assert softcache.verify(shop.cache).ok


def test_a_record_of_views_that_is_lost_is_not_made_up(shop: Workshop) -> None:
    """Only the same labels again prove that the views that are made are those that it recorded."""
    shop.recipe["augmentation"]["transform"] = "augment:shifted"
    shop.write("shift", "0")
    shop.build()
    before = shop.open().checks(np.arange(80))
    next((shop.cache / "data/rows").iterdir()).unlink()
    relabel(shop, [4 - i % 5 for i in range(40)])
    for shift in "10":
        shop.write("shift", shift)
        with pytest.raises(IntegrityError, match=r"data/rows/.*: missing, and it records which views the teachers saw"):
            shop.build()
    relabel(shop, [i % 5 for i in range(40)])
    shop.write("shift", "1")
    with pytest.raises(IntegrityError, match=r"data/rows/.*: lost, and this build's shard has other bytes"):
        shop.build()
    shop.write("shift", "0")
    shop.build()
    relabel(shop, [4 - i % 5 for i in range(40)])
    shop.build()
    assert np.array_equal(shop.open().checks(np.arange(80)), before)
    assert softcache.verify(shop.cache).ok


def test_wrong_numbers(shop: Workshop) -> None:
    shop.build()
    cache, made = shop.open(), transform(shop, "noisy")
    for count in ("2", 1.5, 0, True):
        with pytest.raises(TaskError, match=re.escape(f"views is {count!r}; the cache has 2")):
            softcache.views(students(shop), cache, made, id="id", views=count)
    data = softcache.views(students(shop), cache, made, id="id")
    for epoch in (None, 2**70, 1.5, -1):
        with pytest.raises(TaskError, match="expected an integer from 0"):
            data.set_epoch(epoch)
    for odd in ([[1], [1, 2]], {"a": object()}, "\ud800"):
        with pytest.raises(AlignmentError, match=r"sample 0, view 0: not the view that.*expected numbers or text"):
            softcache.views(students(shop), cache, lambda x, odd=odd: odd, id="id")[0]


def test_a_transform_that_cannot_be_used_is_not_valid(shop: Workshop) -> None:
    for change, why in (
        ({"arguments": {"zzz": 1}, "transform": "augment:Mix"}, "takes no arguments|unexpected keyword"),
        ({"transform": "augment:COUNT"}, "is no transform"),
        ({"column": "zzz"}, "teacher t does not read 'zzz', but x"),
        ({"column": "label"}, "teacher t does not read 'label'"),
    ):
        shop.recipe["augmentation"] = {"transform": "augment:noisy", "column": "x", "views": 2} | change
        for attempt in (lambda: validate(shop.save()), shop.build):
            with pytest.raises((RecipeError, AugmentationError), match=why):
                attempt()


def relabel(shop: Workshop, labels: list[Any]) -> None:
    made = json.loads((shop.folder / "samples.json").read_text())
    (shop.folder / "samples.json").write_text(json.dumps(made | {"label": labels}))


GIVEN = """

import json
import numpy as np
GIVEN = np.float32(json.loads((HERE / "samples.json").read_text())["x"][::4])


def but(number):
    def see(sample):
        if sample["x"][0] == GIVEN[number]:
            raise ValueError("not this one")
        return preprocess(sample)
    return see


no_three, no_seven = but(3), but(7)
"""


def test_teachers_together_are_measured_on_what_all_answer(workshop: Workshop) -> None:
    relabel(workshop, workshop.answers().argmax(1).tolist())
    workshop.write("model.py", MODEL + GIVEN)
    teacher = workshop.recipe["teachers"]["t"]
    workshop.recipe["teachers"] = {
        name: teacher | {"preprocess": f"model:{see}"} for name, see in (("a", "no_three"), ("b", "no_seven"))
    }
    workshop.recipe["tasks"] = {"cls": workshop.recipe["tasks"]["cls"] | {"teachers": ["a", "b"]}}
    *both, together = evaluate(workshop.save()).candidates
    assert [(c.samples, c.without_answer, c.metrics.accuracy) for c in both] == [(39, 1, 1.0)] * 2
    assert (together.samples, together.without_answer, together.metrics.accuracy) == (38, 2, 1.0)


def test_answers_that_are_not_stored_are_not_measured(workshop: Workshop) -> None:
    nothing = "self.head(x).masked_fill(x[:, :1] == GIVEN[5], torch.nan)"
    workshop.write("model.py", MODEL.replace("self.head(x) * self.scale", nothing) + GIVEN)
    relabel(workshop, workshop.answers().argmax(1).tolist())
    (candidate,) = evaluate(workshop.save()).candidates
    assert (candidate.samples, candidate.without_answer, candidate.metrics.accuracy) == (39, 1, 1.0)
    shown = CliRunner().invoke(main, ["evaluate", str(workshop.save())]).stdout
    assert "t: 1 labelled samples without an answer" in shown


def test_labels_that_are_booleans(workshop: Workshop) -> None:
    relabel(workshop, [i % 2 == 0 for i in range(40)])
    found = workshop.build().targets[0]
    right = workshop.answers().argmax(1).numpy() == (np.arange(40) % 2 == 0)
    assert found.accuracy == pytest.approx(right.mean())
    assert validate(workshop.save()).hygiene.labels == {"label": {False: 20, True: 20}}


HEAD = (
    "import datetime\nimport numpy as np\nimport pyarrow as pa\n\n\ndef fixed(x):\n    x = np.asarray(x, np.float32)\n"
)
FIXED = "    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])\n\n\ndef samples():\n"


def columns(workshop: Workshop, count: int, label: str, x: str = "fixed(np.zeros((len(ids), 4)))") -> None:
    """Make the transfer set's columns of Python code, in which `ids` are 0 to `count`."""
    made = f"    ids = list(range({count}))\n    return pa.table({{'id': ids, 'x': {x}, 'label': {label}}})\n"
    workshop.write("data.py", HEAD + FIXED + made)


def test_expressions_see_the_whole_set(workshop: Workshop) -> None:
    columns(workshop, 10_000, "[i % 5000 for i in ids]", "fixed(np.arange(40_000).reshape(-1, 4))")
    expressions = {
        "~label.duplicated()": 5000,
        "id >= id.max()": 1,
        "id > id.mean()": 5000,
        "label >= 0 and index < 7": 7,
    }
    for expression, samples in expressions.items():
        found = validate(workshop.save(), [f"transfer_set.where={expression}"]).hygiene
        assert found.samples == samples, expression
    for odd in ("label.max() == 6", "label.values == 3", "label"):
        with pytest.raises(RecipeError, match="is not true or false for each sample"):
            validate(workshop.save(), [f"transfer_set.where={odd}"])


def test_balance_of_categories(workshop: Workshop) -> None:
    workshop.recipe["tasks"]["cls"]["label"] = None
    columns(workshop, 6, "pa.DictionaryArray.from_arrays(pa.array([0, 2] * 3), ['a', 'unused', 'b'])")
    for balance, samples in (("{by: label, each: 2}", 4), ("{by: label}", 6)):
        found = validate(workshop.save(), [f"transfer_set.balance={balance}"])
        assert found.hygiene.samples == samples
    columns(workshop, 3, "pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(['a', None]))")
    with pytest.raises(RecipeError, match="balance: 1 sample without label"):
        validate(workshop.save(), ["transfer_set.balance={by: label}"])


def test_labels_of_any_kind_in_json(workshop: Workshop) -> None:
    columns(workshop, 3, "[datetime.date(2026, 1, d) for d in (1, 1, 2)]")
    shown = json.loads(CliRunner().invoke(main, ["validate", str(workshop.save()), "--json"]).stdout)
    assert shown["hygiene"]["labels"] == {"label": {"2026-01-01": 2, "2026-01-02": 1}}
    columns(workshop, 3, "[float('nan')] * 3")
    found = validate(workshop.save()).hygiene
    assert found.labels == {"label": {"nan": 3}}
    assert found.contradictions == {}


def test_numbers_inside_lists(workshop: Workshop) -> None:
    columns(workshop, 4, "[0] * 4", "[[float('nan'), 1.0], [2.0], [], [3.0, float('inf'), 1.0]]")
    h = validate(workshop.save()).hygiene
    assert h.not_finite["x"].ids == [0, 3]
    assert h.ranges["x"] == (1.0, 3.0)
    columns(workshop, 3, "[0] * 3", "pa.array([[1.0, None], None, [float('nan'), 2.0]], pa.list_(pa.float32(), 2))")
    h = validate(workshop.save()).hygiene
    assert h.missing["x"].ids == [0, 1]
    assert h.not_finite["x"].ids == [2]


def test_no_label_contradicts_nothing(workshop: Workshop) -> None:
    columns(workshop, 5, "[-1, 3, 3, 2, -1]")
    h = validate(workshop.save()).hygiene
    assert h.duplicates.ids == [1, 2, 3, 4]
    assert h.contradictions["label"].ids == [3]


def test_labels_of_two_tasks(workshop: Workshop) -> None:
    workshop.recipe["tasks"]["more"] = workshop.recipe["tasks"]["cls"] | {"classes": 200, "output": "cls"}
    relabel(workshop, [100] * 40)
    assert validate(workshop.save()).hygiene.not_classes["label"].count == 40


def test_many_fragments_are_found_at_once(workshop: Workshop) -> None:
    """Fragments of samples that are there in another order, and one that is not there at all."""
    workshop.samples(40, ids=[f"s{i}" for i in range(40)])
    workshop.build()
    made = json.loads((workshop.folder / "samples.json").read_text())
    order = [*range(39, 19, -1), *range(10)]
    shuffled = {name: [made[name][i] for i in order] for name in ("id", "label")}
    shuffled["x"] = [v for i in order for v in made["x"][4 * i : 4 * i + 4]]
    (workshop.folder / "samples.json").write_text(json.dumps(shuffled))
    assert workshop.build().up_to_date
    assert isinstance(workshop.open().rows.table(), pa.Table)
    assert torch.is_tensor(workshop.open()["cls"].read([0]).values)
    with pytest.raises(TransferSetError, match="no column"):
        workshop.build("transfer_set.keep=[nothing]", "tasks.cls.label=null")
    assert Path(workshop.cache).exists()
