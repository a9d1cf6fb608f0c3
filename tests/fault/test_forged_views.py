"""Augmented caches that are forged or contradict themselves: typed errors, and nothing in silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop
from forgery import sign_commits
from test_forged_verify import Forger, changed

import softcache
from softcache.builder.engines import local
from softcache.errors import AlignmentError, CommitConflict, FormatError
from softcache.transfer.view_checks import NO_VIEW

AUGMENT = """
import numpy as np


class Scale:
    def draw(self, x, rng):
        return {"by": int(rng.integers(2, 10))}

    def apply(self, x, by):
        return np.asarray(x, np.float32) * by


def drawn(x):
    return (np.asarray(x) + np.random.rand()).astype(np.float32)
"""


def augmented(folder: Path, transform: str = "Scale") -> Workshop:
    workshop = Workshop(folder)
    workshop.write("augment.py", AUGMENT)
    workshop.recipe["augmentation"] = {"transform": f"augment:{transform}", "column": "x", "views": 2}
    workshop.recipe["build"]["fragment_rows"] = 20
    del workshop.recipe["tasks"]["feat"]
    return workshop


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Two commits, a fragment of ten samples in each."""
    workshop = augmented(tmp_path_factory.mktemp("views"))
    for count in (10, 20):
        workshop.samples(count)
        workshop.build()
    return workshop


@pytest.fixture
def forger(pristine: Workshop, tmp_path: Path) -> Forger:
    return Forger(Path(shutil.copytree(pristine.cache, tmp_path / "cache")))


def uneven(columns: dict[str, pa.Array]) -> None:
    """Three checks of the first sample, one of the second."""
    offsets = pa.array([0, 3, *range(4, 21, 2)], pa.int32())
    columns["check"] = pa.ListArray.from_arrays(offsets, columns["check"].values, type=columns["check"].type)


def parameters(text: Callable[[str], str]) -> Callable[[dict[str, pa.Array]], None]:
    def change(columns: dict[str, pa.Array]) -> None:
        texts = [text(t).ljust(len(t)) for t in columns["parameters"].to_pylist()]
        columns["parameters"] = pa.array(texts, pa.string())

    return change


FORGED = [
    (lambda t: "[", "does not hold one for each view"),
    (lambda t: "[{}]", "does not hold one for each view"),
    (lambda t: "7", "does not hold one for each view"),
    (lambda t: "[3, 4]", "holds something else than objects"),
    (lambda t: "[" * len(t), "does not hold one for each view"),
]


@pytest.mark.parametrize(("text", "why"), FORGED, ids=range(len(FORGED)))
def test_forged_parameters(forger: Forger, text: Callable[[str], str], why: str) -> None:
    forger.file("rows", ".arrow", lambda data: changed(data, parameters(text)))
    said = forger.said("full")
    assert any(why in problem for problem in said), said
    cache = softcache.open(forger.cache)
    with pytest.raises(FormatError, match=why):
        cache.parameters(np.arange(40))
    if why != FORGED[3][1]:
        with pytest.raises(FormatError, match="not the rows of 2 views each"):
            cache.rows.table()


def test_forged_checks(forger: Forger) -> None:
    forger.file("rows", ".arrow", lambda data: changed(data, uneven))
    assert "it does not have a check for each view" in forger.said("full")


def test_answers_to_views_that_are_not_recorded(pristine: Workshop, forger: Forger) -> None:
    """A student would take its own sample for what they are of."""

    def unrecorded(columns: dict[str, pa.Array]) -> None:
        checks = columns["check"].to_pylist()
        checks[3][1] = NO_VIEW
        columns["check"] = pa.array(checks, columns["check"].type)

    forger.file("rows", ".arrow", lambda data: changed(data, unrecorded))
    forger.said("quick")
    samples = [{"id": i, "x": np.zeros(4, np.float32)} for i in range(20)]
    scope: dict[str, Any] = {}
    exec(AUGMENT, scope)
    data = softcache.views(samples, softcache.open(forger.cache), scope["Scale"](), id="id", check="off")
    data[13]
    data.set_epoch(1)
    data[12]
    with pytest.raises(AlignmentError, match=r"samples 13, view 1: cls@t has answers, and no view is recorded"):
        data[13]


def test_a_later_teacher_is_given_no_forged_views(pristine: Workshop, forger: Forger) -> None:
    forger.file("rows", ".arrow", lambda data: changed(data, parameters(lambda t: "[{}]")))
    forger.said("quick")
    shop = Workshop.__new__(Workshop)
    shop.__dict__ |= pristine.__dict__ | {"cache": forger.cache}
    with pytest.raises(FormatError, match=r"does not record each of its 20 views"):
        shop.build("tasks.again={kind: classification, classes: 5, value_kind: logits, teachers: [t], output: cls}")


DECLARED = {"transform": "m:f", "arguments": {}, "column": None, "seed": 1, "sources": {}}


@pytest.mark.parametrize(
    "described",
    [
        *(7, {}, {"versions": [{}]}, {"declaration": DECLARED}, {"declaration": {}, "versions": [{}]}),
        *({"declaration": DECLARED | {"seed": "1"}, "versions": [{}]}, {"declaration": DECLARED, "versions": []}),
        *({"declaration": DECLARED, "versions": {}}, {"declaration": DECLARED, "versions": [3]}),
    ],
)
def test_forged_augmentations(forger: Forger, described: object) -> None:
    sign_commits(forger.files, lambda body: body.update(augmentation=described))
    assert forger.said("quick")
    with pytest.raises(FormatError):
        softcache.open(forger.cache)


def test_views_are_recorded_before_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed in between leaves no answers to views that are not recorded."""
    workshop = augmented(tmp_path)
    seen = []
    write = local.write_target

    def write_target(files: object, unit: object, job: object, answers: object) -> object:
        targets = [json.loads(p.read_text())["target"] for p in (workshop.cache / "receipts").rglob("*.json")]
        seen.append(targets.count("rows") - targets.count("cls@t"))
        return write(files, unit, job, answers)

    monkeypatch.setattr(local, "write_target", write_target)
    workshop.build()
    assert seen == [1] * 4


@pytest.mark.parametrize("rounding", [False, True])
def test_two_builders_that_make_other_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounding: bool) -> None:
    """The first record counts; who has made others is told so. Sketches may differ by rounding."""
    workshop = augmented(tmp_path, "drawn")
    write, first = local.write_rows, []

    def after_another(files: object, unit: object, kept: object, declaration: object, views: object) -> object:
        if not first:
            first.append(True)
            change = np.array([0] * 7 + [1] if rounding else [1] + [0] * 7, np.uint8)
            other = type(views)(views.checks ^ change, views.parameters, views.versions)  # type: ignore[attr-defined]
            write(files, unit, kept, declaration, other)  # type: ignore[arg-type]
        return write(files, unit, kept, declaration, views)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "write_rows", after_another)
    if rounding:
        assert workshop.build().commit == 1
        return
    with pytest.raises(CommitConflict, match="another builder has recorded other views of fragment 0"):
        workshop.build()
    assert not any((workshop.cache / "commits").rglob("*.json"))
