"""What `validate` and `plan` say of samples, and subsets of them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from conftest import Workshop
from PIL import Image

import softcache
from softcache.assess.forecast import plan
from softcache.assess.validate import Validation, validate
from softcache.cli import main
from softcache.errors import AlignmentError, RecipeError, TransferSetError

DIRTY = """
import pyarrow as pa


def samples():
    x = [[float(i), 0.0, 0.0, 0.0] for i in range(12)]
    x[4] = x[7] = x[1]
    x[9][2] = float("nan")
    x[10][0] = float("-inf")
    x = pa.array(x, pa.list_(pa.float32(), 4))
    return pa.table({
        "id": list(range(12)), "x": x, "label": [0, 1, 2, 3, 1, 5, -1, 2, 99, 0, 0, 0],
        "name": ["a", None, "c"] + ["d"] * 9,
    })
"""


def look(workshop: Workshop, *overrides: str, **options: Any) -> Validation:
    return validate(workshop.save(), overrides, **options)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def dirty(workshop: Workshop) -> Workshop:
    workshop.write("data.py", DIRTY)
    return workshop


def test_findings(dirty: Workshop) -> None:
    dirty.recipe["transfer_set"]["keep"] = ["label", "name"]
    found = look(dirty)
    h = found.hygiene
    assert (h.samples, h.decoded) == (12, 12)
    assert (h.duplicates.count, h.duplicates.ids) == (2, [4, 7])
    assert {c: f.ids for c, f in h.contradictions.items()} == {"label": [7]}
    assert {c: f.ids for c, f in h.missing.items()} == {"name": [1]}
    assert {c: f.ids for c, f in h.not_finite.items()} == {"x": [9, 10]}
    assert {c: f.ids for c, f in h.not_classes.items()} == {"label": [5, 8]}
    assert h.ranges == {"x": (0.0, 11.0), "label": (-1.0, 99.0)}
    assert h.labels["label"] == {-1: 1, 0: 4, 1: 2, 2: 2, 3: 1, 5: 1, 99: 1}
    assert not found.buildable, "a kept value is missing"
    result = run("validate", dirty.save())
    assert result.exit_code == 1
    for text in (
        "2 with the same content as an earlier one: 4, 7",
        "1 with the same content as an earlier one, but another label: 7",
        "1 without a value in name: 1",
        "2 with NaN or infinity in x: 9, 10",
        "2 whose label is not a class: 5, 8",
        "label: 7 labels, 1 to 4 samples each (-1: 1, 0: 4, 1: 2, 2: 2, 3: 1, 5: 1, 99: 1)",
        "a build would stop",
    ):
        assert text in result.stdout, result.stdout
    assert json.loads(run("validate", dirty.save(), "--json").stdout)["hygiene"]["duplicates"]["ids"] == [4, 7]


def test_what_a_build_says_of_the_same(dirty: Workshop) -> None:
    """`buildable` is what it says."""
    dirty.recipe["transfer_set"]["keep"] = ["label", "name"]
    with pytest.raises(TransferSetError, match="kept column 'name' lacks values for samples 1"):
        dirty.build()
    dirty.recipe["transfer_set"] |= {"keep": ["label"], "content": ["x"]}
    assert look(dirty).buildable


def test_images_that_cannot_be_decoded(workshop: Workshop, tmp_path: Path) -> None:
    folder = workshop.folder / "photos/kind"
    folder.mkdir(parents=True)
    for i in range(70):
        made = io.BytesIO()
        Image.new("RGB", (8, 8), (i, 0, 0)).save(made, "PNG")
        (folder / f"{i:02d}.png").write_bytes(made.getvalue()[: 40 if i in (5, 66) else None])
    workshop.write(
        "seen.py", "import numpy as np\ndef see(s):\n    return np.asarray(s['image'])[0, 0, [0, 1, 2, 0]] / 255\n"
    )
    workshop.recipe["transfer_set"] = {
        "source": {"type": "images", "folder": "photos"},
        "id": "path",
        "keep": ["label"],
    }
    workshop.recipe["teachers"]["t"] |= {"preprocess": "seen:see", "reads": ["image"]}
    workshop.recipe["tasks"]["cls"]["label"] = None
    found = look(workshop)
    assert found.hygiene.decoded == 70
    assert {i for f in found.hygiene.undecodable.values() for i in f.ids} == {"kind/05.png", "kind/66.png"}
    assert not found.buildable
    assert look(workshop, "build.on_bad_sample=skip").buildable
    assert look(workshop, limit=5).hygiene.samples == 5
    assert look(workshop, limit=5).buildable


def test_plan_looks_too(workshop: Workshop) -> None:
    workshop.samples(2_000)
    found = plan(workshop.save(), workshop.cache).hygiene
    assert (found.samples, found.decoded) == (2_000, 1_000)
    result = run("plan", workshop.save(), "-o", workshop.cache)
    assert "2,000 samples, 1,000 of them decoded" in result.stdout
    assert "label: 5 labels, 400 samples each" in result.stdout


def test_all_mistakes_at_once(workshop: Workshop) -> None:
    workshop.samples(4, ids=[1, 1, 2, 3])
    workshop.recipe["teachers"]["t"]["weights"] = "none"
    with pytest.raises(RecipeError) as caught:
        look(workshop)
    assert len(caught.value.problems) == 2
    assert "duplicate ids 1" in str(caught.value)


def chosen(workshop: Workshop, **transfer_set: Any) -> list[Any]:
    workshop.recipe["transfer_set"] |= transfer_set
    workshop.build()
    return workshop.open().rows.table()["sample_id"].to_pylist()


def test_where(workshop: Workshop) -> None:
    """A transfer set that omits a class (Hinton et al. 2015, section 3)."""
    assert chosen(workshop, where="label != 3 and id < 30") == [i for i in range(30) if i % 5 != 3]
    cache = workshop.open()
    assert cache.commit.transfer_set["where"] == "label != 3 and id < 30"
    assert np.allclose(cache["cls"].lookup([29]).values.numpy(), workshop.answers()[[29]].numpy(), atol=1e-5)
    assert softcache.verify(workshop.cache).ok


def test_balance(workshop: Workshop) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [0] * 20 + [1, 2] * 10
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    assert chosen(workshop, where="label != 2", balance={"by": "label", "each": 3}) == [0, 1, 2, 20, 22, 24]
    workshop.cache = workshop.cache.with_name("other")
    assert chosen(workshop, where=None, balance={"by": "label"}) == [*range(10), *range(20, 40)]
    assert workshop.open().commit.transfer_set["balance"] == {"by": "label", "each": None}


@pytest.mark.parametrize(
    ("transfer_set", "why"),
    [
        ({"where": "id <"}, "where: 'id <': SyntaxError"),
        ({"where": "1 == 1"}, "names no column"),
        ({"where": "id + 1"}, "is not true or false for each sample"),
        ({"where": "id > 100"}, "holds for none of 40 samples"),
        ({"where": "id > missing"}, "UndefinedVariable"),
        ({"balance": {"by": "nothing"}}, "balance: no column nothing"),
        ({"balance": {"by": "label", "each": 9}}, "fewer than 9 samples of label 0, 1, 2, 3, 4"),
    ],
)
def test_subsets_that_are_none(workshop: Workshop, transfer_set: dict[str, Any], why: str) -> None:
    workshop.recipe["transfer_set"] |= transfer_set
    with pytest.raises(TransferSetError, match=why):
        workshop.build()
    with pytest.raises(RecipeError, match=why):
        look(workshop)


def test_a_subset_of_images(workshop: Workshop, tmp_path: Path) -> None:
    """A source that decodes, and names labels, still does."""
    import datasets

    made = datasets.Dataset.from_dict(
        {"id": list(range(6)), "image": [Image.new("L", (2, 2), i) for i in range(6)], "label": [0, 1, 1, 0, 1, 1]},
        features=datasets.Features(
            {"id": datasets.Value("int64"), "image": datasets.Image(), "label": datasets.ClassLabel(names=["n", "y"])}
        ),
    )
    made.save_to_disk(workshop.folder / "set")
    workshop.write(
        "seen.py", "import numpy as np\ndef see(s):\n    return np.asarray(s['image'], np.float32).ravel()\n"
    )
    workshop.recipe["teachers"]["t"] |= {"preprocess": "seen:see", "reads": ["image"]}
    workshop.recipe["tasks"]["cls"] |= {"classes": 5, "label": None}
    ids = chosen(workshop, source={"type": "dataset", "path": "set"}, where="label == 1")
    assert ids == [1, 2, 4, 5]
    x = np.repeat(np.array(ids, np.float32)[:, None], 4, 1)
    assert np.allclose(workshop.open()["cls"].lookup(ids).values, workshop.answers("cls", x), atol=1e-5)


def test_a_growing_set_keeps_what_it_has(workshop: Workshop) -> None:
    chosen(workshop, where="id < 20")
    workshop.recipe["transfer_set"]["where"] = "id < 5"
    with pytest.raises(AlignmentError, match="a cache only grows"):
        workshop.build()
    assert chosen(workshop, where="id < 30") == list(range(30))
    assert isinstance(workshop.open().rows.table(), pa.Table)


def test_expressions_see_the_whole_set(workshop: Workshop) -> None:
    workshop.columns(10_000, "[i % 5000 for i in ids]", "fixed(np.arange(40_000).reshape(-1, 4))")
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
    workshop.columns(6, "pa.DictionaryArray.from_arrays(pa.array([0, 2] * 3), ['a', 'unused', 'b'])")
    for balance, samples in (("{by: label, each: 2}", 4), ("{by: label}", 6)):
        found = validate(workshop.save(), [f"transfer_set.balance={balance}"])
        assert found.hygiene.samples == samples
    workshop.columns(3, "pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(['a', None]))")
    with pytest.raises(RecipeError, match="balance: 1 sample without label"):
        validate(workshop.save(), ["transfer_set.balance={by: label}"])


def test_numbers_inside_lists(workshop: Workshop) -> None:
    workshop.columns(4, "[0] * 4", "[[float('nan'), 1.0], [2.0], [], [3.0, float('inf'), 1.0]]")
    h = validate(workshop.save()).hygiene
    assert h.not_finite["x"].ids == [0, 3]
    assert h.ranges["x"] == (1.0, 3.0)
    workshop.columns(3, "[0] * 3", "pa.array([[1.0, None], None, [float('nan'), 2.0]], pa.list_(pa.float32(), 2))")
    h = validate(workshop.save()).hygiene
    assert h.missing["x"].ids == [0, 1]
    assert h.not_finite["x"].ids == [2]
