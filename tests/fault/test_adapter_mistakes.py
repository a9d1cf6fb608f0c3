"""Adapters and label orders that are wrong: refused, with the setting or the method named."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop
from expressions import answered_by_expression
from small_models import CLASSES, SAMPLES, Shop, sequence_classifier

from softcache.errors import RecipeError, SoftcacheError, TransferSetError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


OWN = """
from softcache.teachers import Adapter, Description, Fingerprint, OutputSpec
import torch

class Good(Adapter):
    adapter: str
    mode: str = "good"

    def describe(self, folder):
        if self.mode == "raises":
            raise KeyError("weights")
        if self.mode == "nothing":
            return None
        if self.mode == "set":
            return Description(Fingerprint("own", {"a": {1, 2}}))
        if self.mode == "labels":
            return Description(Fingerprint("own", {}), {"a": OutputSpec(labels=("z", "y"))})
        answers = {"a": OutputSpec(labels=("z", "y", "x"))}
        return Description(Fingerprint("own", {}), answers, libraries=("no-such-library",))

    def load(self, folder, device):
        if self.mode == "load":
            raise OSError("no such device")
        return self

    def collate(self, samples):
        return torch.stack([torch.tensor(s["x"]) for s in samples])

    def predict(self, batch):
        return [batch] if self.mode == "list" else {"a": batch[:, :3]}

class Half(Adapter):
    adapter: str

    def describe(self, folder):
        return None
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "own:Half"}, r"teachers\.t\.adapter: 'own:Half' does not define load"),
        ({"adapter": "own:torch"}, r"'own:torch' is module, not a function"),
        ({"adapter": "own:Fingerprint"}, "is not a subclass of softcache"),
        ({"mode": "raises"}, r"teachers\.t: describe of own:Good raised KeyError: 'weights'"),
        ({"mode": "nothing"}, r"teachers\.t: describe of own:Good returned NoneType"),
        ({"mode": "set"}, r"teachers\.t: describe of own:Good: its fingerprint cannot be written as JSON"),
        ({"mode": "labels"}, r"tasks\.a: 3 labels; teacher t has 2"),
        ({"mode": "load"}, "teacher t: load of own:Good raised OSError: no such device"),
        ({"mode": "list"}, "teacher t: predict returned list, not answers by output name"),
    ],
)
def test_faulty_adapters(shop: Workshop, settings: dict[str, Any], message: str) -> None:
    shop.write("own.py", OWN)
    task = {"kind": "classification", "labels": ["z", "y", "x"], "value_kind": "logits", "teachers": ["t"]}
    shop.recipe |= {"teachers": {"t": {"adapter": "own:Good"} | settings}, "tasks": {"a": task}}
    with pytest.raises(SoftcacheError, match=message):
        shop.build()


def test_a_specialist_knows_its_labels_in_order(shop: Workshop) -> None:
    shop.write("own.py", OWN)
    task = {"kind": "classification", "labels": ["w", "x", "y", "z"], "value_kind": "logits", "teachers": ["t"]}
    shop.recipe |= {
        "teachers": {"t": {"adapter": "own:Good"}},
        "tasks": {"a": task | {"knows": {"t": ["x", "y", "z"]}}},
    }
    with pytest.raises(
        RecipeError, match="labels are in another order than those of teacher t: class 0 is 'x' here, 'z'"
    ):
        shop.build()
    shop.recipe["tasks"]["a"]["knows"] = {"t": ["z", "y", "x"]}
    shop.build()
    assert shop.open()["a"].provenance["versions"]["no-such-library"] == "absent"


def test_settings_that_do_not_fit_the_model(tmp_path: Path) -> None:
    sequence_classifier(tmp_path / "model")
    teacher: dict[str, Any] = {
        "adapter": "transformers", "model": "model", "task": "sequence_classification", "column": "x",
    }  # fmt: skip
    shop = Shop(tmp_path, SAMPLES["text"](), teacher, CLASSES)
    with pytest.raises(RecipeError, match=r"tasks\.a: classes is 4; teacher t answers 3"):
        shop.build("c", "tasks.a.labels=[cat, dog, cow, hen]")
    with pytest.raises(RecipeError, match=r"labels differ from those of teacher t: class 2 is 'hen' here"):
        shop.build("c", "tasks.a.labels=[cat, dog, hen]")
    with pytest.raises(RecipeError, match=r"tasks\.a: value_kind is 'probs'; teacher t answers 'logits'"):
        shop.build("c", "tasks.a.value_kind=probs")
    with pytest.raises(RecipeError, match="sampling_rate is for audio"):
        shop.build("c", "teachers.t.sampling_rate=100")
    with pytest.raises(RecipeError, match="text_features needs hooks"):
        shop.build("c", "teachers.t.task=text_features")
    with pytest.raises(RecipeError, match=r"teachers\.t\.colum: 'x': unknown key; did you mean 'column'"):
        shop.build("c", "teachers.t.colum=x")
    with pytest.raises(RecipeError, match=r"teachers\.t\.adapter: 'transformer' is not an adapter; expected one of"):
        shop.build("c", "teachers.t.adapter=transformer")
    with pytest.raises(RecipeError, match="no weights"):
        shop.build("c", "teachers.t.model=images")
    shop.recipe["teachers"]["t"]["column"] = "id"
    with pytest.raises(TransferSetError, match="expected text"):
        shop.build("c", "transfer_set.id=content-hash", "transfer_set.content=[id, x]")
