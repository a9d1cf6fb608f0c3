"""Adapters and kinds that a user defines."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import Workshop
from every_kind import DENSE, T

import softcache
from softcache.errors import RecipeError
from softcache.kinds import KINDS, Kind

OUTSIDE = """
import json
from pathlib import Path
from typing import Literal

import torch
from softcache.teachers import Adapter, Description, Fingerprint, OutputSpec


class Lengths(Adapter):
    adapter: Literal["own:Lengths"]
    scale: float = 1.0

    @property
    def columns(self):
        return ["x"]

    def describe(self, folder: Path) -> Description:
        outputs = {"length": OutputSpec("regression", shape=(1,))}
        return Description(Fingerprint("lengths", {"scale": self.scale}), outputs)

    def load(self, folder: Path, device: str):
        return self

    def collate(self, samples):
        return torch.stack([torch.tensor(sample["x"]) for sample in samples])

    def predict(self, batch):
        halves = torch.stack([batch[:, :2].norm(dim=1), batch[:, 2:].norm(dim=1)], 1)
        return {"length": batch.norm(dim=1, keepdim=True) * self.scale, "half": halves, "pairs": halves[:, :, None]}
"""


def test_an_adapter_and_a_kind_of_the_users_own(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is one class and a kind is one line: neither needs a change in the package."""
    workshop.write("own.py", OUTSIDE)
    monkeypatch.setitem(KINDS, "ranking", Kind("list", ("sigmoid",), dimensions=1))
    workshop.recipe["teachers"] = {"t": {"adapter": "own:Lengths", "scale": 2.0}}
    workshop.recipe["tasks"] = {
        "length": {"kind": "regression", "shape": [1], "teachers": ["t"], "store": DENSE},
        "half": {"kind": "classification", "classes": 2, "value_kind": "logits", "teachers": ["t"], "store": DENSE},
        "pairs": {"kind": "ranking", "classes": 1, "value_kind": "logits", "teachers": ["t"], "store": DENSE},
    }
    workshop.build()
    cache, x = workshop.open(), workshop.inputs()
    assert torch.allclose(cache["length"].lookup(range(40)).values, 2 * x.norm(dim=1, keepdim=True))
    halves = torch.stack([x[:, :2].norm(dim=1), x[:, 2:].norm(dim=1)], 1)
    assert torch.equal(cache["half"].lookup(range(40)).values, halves)
    soft = cache["pairs"].lookup(range(40))
    assert torch.allclose(soft.log_probs(T), F.logsigmoid(halves[:, :, None] / T))
    p = (halves / T).sigmoid().double()
    wanted = T**2 * (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).mean()
    assert float(softcache.distillation_loss(torch.zeros(40, 2, 1), soft, T)) == pytest.approx(float(wanted), rel=1e-4)
    assert softcache.verify(workshop.cache).ok
    assert cache["pairs"].errors is not None
    workshop.recipe["tasks"]["length"]["shape"] = [2]
    with pytest.raises(RecipeError, match=r"tasks\.length: shape is \(2,\); teacher t answers \(1,\)"):
        workshop.build()
    workshop.recipe["teachers"]["t"]["scale"] = "two"
    with pytest.raises(RecipeError, match=r"teachers\.t\.scale: 'two': input should be a valid number"):
        workshop.build()
