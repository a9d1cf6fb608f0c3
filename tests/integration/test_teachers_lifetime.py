"""When teachers are loaded and closed: one at a time, whatever becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Workshop

import softcache
from softcache.assess.evaluate import evaluate
from softcache.assess.forecast import plan
from softcache.errors import TeacherError

LIVING = """
from pathlib import Path

import torch
from softcache.teachers import Adapter, Description, Fingerprint

LOG = Path(__file__).parent / "log"


class Living(Adapter):
    adapter: str
    name: str
    mode: str = ""

    @property
    def columns(self):
        return ["x"]

    def describe(self, folder: Path) -> Description:
        return Description(Fingerprint("living", {"name": self.name}))

    def load(self, folder: Path, device: str):
        self.say("loaded")
        return self

    def say(self, what):
        LOG.write_text((LOG.read_text() if LOG.exists() else "") + f"{self.name} {what}\\n")

    def collate(self, samples):
        return torch.stack([torch.tensor(sample["x"]) for sample in samples])

    def predict(self, batch):
        if self.mode == "fails":
            raise RuntimeError("no answer")
        return {"x": batch}

    def close(self):
        self.say("closed")
        if self.mode == "stays":
            raise OSError("cannot be closed")
"""


COUNTED = """
import gc, pathlib, weakref
import torch

ALIVE = weakref.WeakSet()


class Counted(torch.nn.Linear):
    def __init__(self, scale):
        gc.collect()
        with open(pathlib.Path(__file__).parent / "log", "a") as log:
            log.write(f"{len(ALIVE)} ")
        super().__init__(4, 4)
        ALIVE.add(self)
"""


@pytest.mark.parametrize("asked", [softcache.build, plan, evaluate])
def test_one_model_at_a_time(workshop: Workshop, asked: Callable[..., Any]) -> None:
    """Each may need more than half of a device."""
    workshop.write("counted.py", COUNTED)
    torch.save(torch.nn.Linear(4, 4).state_dict(), workshop.folder / "counted.pt")
    teacher = {"model": "counted:Counted", "weights": "counted.pt", "preprocess": "model:preprocess", "reads": ["x"]}
    workshop.recipe["teachers"] = {f"t{i}": teacher | {"arguments": {"scale": i}} for i in range(3)}
    task = {"kind": "classification", "classes": 4, "value_kind": "logits", "teachers": ["t0", "t1", "t2"]}
    workshop.recipe["tasks"] = {"x": task | {"label": "label"}}
    label_below(workshop, 4)
    asked(workshop.save(), *([] if asked is evaluate else [workshop.cache]))
    assert (workshop.folder / "log").read_text().split() == ["0", "0", "0"]


def label_below(workshop: Workshop, classes: int) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [i % classes for i in made["label"]]
    (workshop.folder / "samples.json").write_text(json.dumps(made))


@pytest.mark.parametrize("asked", [softcache.build, plan, evaluate])
def test_teachers_are_closed(workshop: Workshop, asked: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Before the next one is loaded; one that fails; and what a teacher answered counts, however it ends."""
    workshop.write("living.py", LIVING)
    workshop.recipe["teachers"] = {n: {"adapter": "living:Living", "name": n} for n in "ab"}
    workshop.recipe["teachers"]["a"]["mode"] = "stays"
    task = {"kind": "classification", "classes": 4, "value_kind": "logits", "teachers": ["a", "b"]}
    workshop.recipe["tasks"] = {"x": task | {"output": "x", "label": "label"}}
    label_below(workshop, 4)

    def run() -> list[str]:
        (workshop.folder / "log").unlink(missing_ok=True)
        asked(workshop.save(), *([] if asked is evaluate else [workshop.cache]))
        return (workshop.folder / "log").read_text().splitlines()

    assert run() == ["a loaded", "a closed", "b loaded", "b closed"]
    assert "teacher a: close raised OSError: cannot be closed" in caplog.text
    workshop.recipe["teachers"]["b"] = workshop.recipe["teachers"].pop("b") | {"mode": "fails", "name": "c"}
    workshop.cache = workshop.cache.with_name("another")
    with pytest.raises(TeacherError, match="RuntimeError: no answer"):
        run()
    assert (workshop.folder / "log").read_text().splitlines()[-2:] == ["c loaded", "c closed"]
