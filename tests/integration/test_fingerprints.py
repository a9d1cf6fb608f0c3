"""Fingerprints of teachers: what changes them, and what does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from small_models import CLASSES, MAGIKA, Shop, image_classifier, package, photos

from softcache.errors import RecipeError


def test_fingerprints(tmp_path: Path) -> None:
    """They change with a weight, a preprocessing constant or the order of labels, but not with the folder."""
    image_classifier(tmp_path / "model")
    teacher: dict[str, Any] = {
        "adapter": "transformers", "model": "model", "task": "image_classification", "column": "image",
    }  # fmt: skip
    shop = Shop(tmp_path, photos(), teacher, CLASSES)
    prints = [shop.print()]

    def differs() -> None:
        prints.append(shop.print())
        assert len(set(prints)) == len(prints)

    weights = load_file(tmp_path / "model/model.safetensors")
    weights["classifier.bias"][1] += 1e-3
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    differs()
    change_json(tmp_path / "model/preprocessor_config.json", image_mean=[0.5, 0.5, 0.4])
    differs()
    change_json(tmp_path / "model/config.json", id2label={"0": "dog", "1": "cat", "2": "cow"})
    differs()
    with pytest.raises(RecipeError, match=r"another order than those of teacher t: class 0 is 'cat' here, 'dog' there"):
        shop.build()
    teacher["numerics"] = {"autocast": "bfloat16"}
    differs()
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    teacher["model"] = "elsewhere"
    assert shop.print() == prints[-1]


def test_source_files_and_weights_count(tmp_path: Path) -> None:
    package("magika")
    (tmp_path / "prep.py").write_text(MAGIKA)
    shutil.copy(package("magika", "models/standard_v3_3/model.onnx"), tmp_path / "model.onnx")
    teacher = {"adapter": "onnx", "model": "model.onnx", "preprocess": "prep:preprocess", "reads": ["x"]}
    task = {"kind": "classification", "classes": 214, "value_kind": "probs"}
    shop = Shop(tmp_path, [b"a file"], teacher, task)
    first = shop.build().provenance["declaration"]["teacher"]
    (tmp_path / "prep.py").write_text(MAGIKA.replace("= 256", "= 255"))
    assert shop.build("other").provenance["declaration"]["teacher"]["sources"] != first["sources"]
    (tmp_path / "prep.py").write_text(MAGIKA)
    before = shop.print()
    assert json.loads(before) | {"output": "a"} == first
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    assert json.loads(shop.print())["weights"] != json.loads(before)["weights"]


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
