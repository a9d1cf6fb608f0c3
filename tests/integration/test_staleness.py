"""A teacher that has changed: another tokenizer or last layer is refused, not mixed with what is stored."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop
from language import TEXTS, Language, make_tokenizer

import softcache
from softcache.errors import (
    IncompatibleTarget,
)


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_another_tokenizer_in_the_same_place(language: Language) -> None:
    language.build()
    other = make_tokenizer(TEXTS[:3])
    other.save_pretrained(language.folder / "model")
    with pytest.raises(IncompatibleTarget):
        language.build()
    language.cache = language.folder / "another"
    target = language.build()["lm"]
    target.check_tokenizer(other)
    assert target.lookup([0]).tokens[0].tolist() == other(TEXTS[0])["input_ids"]


TWO_LAYERS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 5).double(), nn.Linear(4, 5).double()

    def forward(self, x):
        return {"hidden": x.float()}

def preprocess(sample):
    return torch.tensor(sample["x"])
"""


def test_another_last_layer(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.write("two.py", TWO_LAYERS)
    shop.recipe["teachers"]["t"] = {
        "model": "two:Two",
        "preprocess": "two:preprocess",
        "reads": ["x"],
        "output_layer": "a",
    }
    cls = shop.recipe["tasks"]["cls"] | {"output": "hidden", "store": {"codec": "hidden", "width": 4}}
    shop.recipe["tasks"] = {"cls": cls}
    shop.build(limit=10)
    with pytest.raises(IncompatibleTarget, match="output_layer: a -> b"):
        shop.build("teachers.t.output_layer=b")
    shop.build()
    assert softcache.verify(shop.cache).ok


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
        for path in (workshop.cache / "commits").rglob("*.json"):
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


def test_other_library_versions_only_warn(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.build(limit=10)
    monkeypatch.setattr("softcache.builder.prepare.cache_checks.versions", lambda libraries: {"torch": "9.9"})
    workshop.build()
    assert "built with other library versions" in caplog.text


def test_other_content_columns_are_refused(workshop: Workshop) -> None:
    workshop.build()
    workshop.recipe["teachers"]["u"] = workshop.recipe["teachers"].pop("t") | {"reads": ["x", "label"]}
    with pytest.raises(IncompatibleTarget, match="content hashes cover x"):
        workshop.build("tasks.cls.teachers=[u]", "tasks.feat.teachers=[u]")
