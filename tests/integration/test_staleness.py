"""A teacher that has changed: another tokenizer or last layer is refused, not mixed with what is stored."""

from pathlib import Path

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
