"""Shared: a small real recipe that tests can bend."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import yaml
from augmented import TRANSFORMS, Augmented
from safetensors.torch import save_file

import softcache
from softcache.builder.publish.summary import Summary

# A busy machine takes longer: time is measured in benchmarks/, never asserted here.
hypothesis.settings.register_profile("softcache", deadline=None)
hypothesis.settings.load_profile("softcache")

MODEL = '''
import os, pathlib, signal, time
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


class Linear(nn.Module):
    """Logits [B, 5] and features [B, 3] of a vector; counts its calls in a file."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.head, self.scale = nn.Linear(4, 5), scale
        self.features = nn.Linear(4, 3)

    def forward(self, x):
        with open(HERE / "calls", "a") as f:
            f.write(f"{len(x)}\\n")
        kill = HERE / "kill_after"
        if kill.exists() and len((HERE / "calls").read_text().splitlines()) >= int(kill.read_text()):
            while len(list((HERE.parent / "cache/receipts").rglob("*.json"))) < 8:
                time.sleep(0.01)
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"cls": self.head(x) * self.scale, "feat": self.features(x)}


def preprocess(sample):
    vector = torch.tensor(sample["x"], dtype=torch.float32)
    if vector[0] > 900:
        raise ValueError("this sample is broken")
    return vector
'''

DATA = """
import json, pathlib
import numpy as np


def samples():
    made = json.loads((pathlib.Path(__file__).parent / "samples.json").read_text())
    return {"id": made["id"], "x": np.array(made["x"], np.float32).reshape(-1, 4), "label": made["label"]}
"""

COLUMNS = """
import datetime
import numpy as np
import pyarrow as pa


def fixed(x):
    x = np.asarray(x, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def samples():
    ids = list(range({count}))
    return pa.table({{"id": ids, "x": {x}, "label": {label}}})
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="tests marked `long` too, and many more damages; no timeouts")
    parser.addoption("--seed", type=int, help="try this one mutant of test_fuzz.py alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
        return
    left = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def many(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """How many to try: the first number, or the second with `--long`."""
    return lambda short, long: long if pytestconfig.getoption("--long") else short


class Workshop:
    """A folder with a recipe, its code, weights and samples, and a cache beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "recipe"
        self.cache = folder / "cache"
        self.folder.mkdir()
        self.write("model.py", MODEL)
        self.write("data.py", DATA)
        self.weights(0)
        self.samples(40)
        self.recipe: dict[str, Any] = {
            "transfer_set": {
                "source": {"type": "python", "callable": "data:samples"},
                "id": "id",
                "keep": ["label"],
            },
            "teachers": {
                "t": {
                    "model": "model:Linear",
                    "weights": "weights.safetensors",
                    "preprocess": "model:preprocess",
                    "reads": ["x"],
                }
            },
            "tasks": {
                "cls": {
                    "kind": "classification",
                    "classes": 5,
                    "value_kind": "logits",
                    "teachers": ["t"],
                    "label": "label",
                    "store": {"dtype": "float32"},
                },
                "feat": {
                    "kind": "features",
                    "shape": [3],
                    "teachers": ["t"],
                    "store": {"format": "zarr", "dtype": "float16"},
                },
            },
            "build": {"batch_size": 4, "fragment_rows": 10},
        }

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def weights(self, seed: int) -> None:
        torch.manual_seed(seed)
        tensors = {
            "head.weight": torch.randn(5, 4),
            "head.bias": torch.randn(5),
            "features.weight": torch.randn(3, 4),
            "features.bias": torch.randn(3),
        }
        save_file(tensors, self.folder / "weights.safetensors")

    def samples(
        self, count: int, ids: Sequence[Any] | None = None, change: Callable[[np.ndarray], None] | None = None
    ) -> None:
        x = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
        if change is not None:
            change(x)
        made = {
            "id": list(range(count)) if ids is None else list(ids),
            "x": x.ravel().tolist(),
            "label": [i % 5 for i in range(count)],
        }
        (self.folder / "samples.json").write_text(json.dumps(made))

    def columns(self, count: int, label: str, x: str = "fixed(np.zeros((len(ids), 4)))") -> None:
        """Make the transfer set's columns from Python expressions, in which `ids` are 0 to `count` - 1."""
        self.write("data.py", COLUMNS.format(count=count, label=label, x=x))

    def relabel(self, labels: list[Any]) -> None:
        """Give the samples other labels."""
        path = self.folder / "samples.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"label": labels}))

    def inputs(self) -> torch.Tensor:
        made = json.loads((self.folder / "samples.json").read_text())
        return torch.tensor(made["x"], dtype=torch.float32).view(-1, 4)

    def answers(self, output: str = "cls", inputs: Any = None) -> torch.Tensor:
        """What the live teacher says to the samples, or to other inputs [B, 4]: float64."""
        from safetensors.torch import load_file

        weights = {k: v.double() for k, v in load_file(self.folder / "weights.safetensors").items()}
        name = {"cls": "head", "feat": "features"}[output]
        seen = self.inputs() if inputs is None else torch.as_tensor(inputs)
        return seen.double() @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def save(self) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe))
        return path

    def build(self, *overrides: str, **options: Any) -> Summary:
        return softcache.build(self.save(), self.cache, overrides, **options)

    def open(self) -> softcache.Cache:
        return softcache.open(self.cache)

    def calls(self) -> int:
        """Samples that the teacher has answered since the last call of this method."""
        path = self.folder / "calls"
        total = sum(map(int, path.read_text().split())) if path.exists() else 0
        path.unlink(missing_ok=True)
        return total


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def augmented(workshop: Workshop) -> Augmented:
    """Return a function that makes the workshop's recipe augment column x with a transform of augmented.py."""

    def make(transform: str = "noisy", views: int = 3, **further: Any) -> Workshop:
        workshop.write("augment.py", TRANSFORMS)
        workshop.recipe["augmentation"] = {"transform": f"augment:{transform}", "column": "x", "views": views} | further
        return workshop

    return make


@pytest.fixture
def augment(workshop: Workshop) -> Iterator[ModuleType]:
    """The recipe's transforms, as a student imports them."""
    workshop.write("augment.py", TRANSFORMS)
    sys.path.insert(0, str(workshop.folder))
    yield import_module("augment")
    sys.path.remove(str(workshop.folder))
    del sys.modules["augment"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits cache, built once."""
    output = tmp_path_factory.mktemp("runs") / "digits"
    softcache.build(Path(__file__).parent.parent / "recipes/digits/recipe.yaml", output)
    return output
