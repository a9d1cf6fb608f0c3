"""The main job: scikit-learn's digits, three real teachers, one cache."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import zarr

import softcache
from softcache.builder.prepare.transfer_set import open_transfer_set
from softcache.recipe import load_recipe
from softcache.teachers import find_adapter
from softcache.transfer.python import recipe_modules

RECIPE = Path(__file__).parents[2] / "recipes/digits/recipe.yaml"
TEMPERATURES = (0.5, 1, 2, 4, 8, 20)


@pytest.fixture(scope="module")
def live() -> dict[str, dict[str, np.ndarray]]:
    """What the live teachers say, float64."""
    with recipe_modules(RECIPE.parent):
        recipe = load_recipe(RECIPE, (), find_adapter)
        transfer_set = open_transfer_set(recipe)
        samples = transfer_set.samples(np.arange(len(transfer_set)), ["image"])
        answers = {}
        for name in recipe.teachers:
            teacher = recipe.teachers[name].load(recipe.folder, "cpu")
            answers[name] = {k: v.double().numpy() for k, v in teacher.predict(teacher.collate(samples)).items()}
    return answers


def reference(z: np.ndarray, t: float) -> np.ndarray:
    z = z / t - (z / t).max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_any_temperature(digits: Path, live: dict, t: float) -> None:
    cache = softcache.open(digits)
    for name in "abc":
        z = live[name]["digit"]
        found = cache[f"digit@{name}"].read(slice(None)).log_probs(t).double().numpy()
        rounding = np.abs(z).max() * 2**-11 / t
        assert np.abs(found - reference(z, t)).max() <= 2 * rounding + 1e-4


@pytest.mark.parametrize("t", TEMPERATURES)
def test_ensemble_averages_probabilities(digits: Path, live: dict, t: float) -> None:
    cache = softcache.open(digits)
    mean = softcache.ensemble([cache["digit@a"], cache["digit@b"], cache["digit@c"]])
    expected = np.mean([np.exp(reference(live[n]["digit"], t)) for n in "abc"], axis=0)
    soft = mean.lookup(np.arange(1797))
    assert np.abs(soft.probs(t).numpy() - expected).max() < 5e-3
    assert soft.values.shape == (1797, 3, 10)
    assert torch.allclose(soft[10:20].log_probs(t), soft.log_probs(t)[10:20], atol=1e-6)


def test_features(digits: Path, live: dict) -> None:
    soft = softcache.open(digits)["embedding"].read(slice(None))
    assert len(softcache.open(digits)["embedding"].read(slice(9, 9)).ids) == 0
    assert np.allclose(soft.values.double().numpy(), live["a"]["embedding"], rtol=2**-10, atol=1e-3)
    assert soft.values.dtype == torch.float16


def test_plain_datasets_without_softcache(digits: Path) -> None:
    code = """
import sys
sys.modules["softcache"] = None
import json, datasets, numpy as np
found = datasets.load_dataset(sys.argv[1], "digit@a", cache_dir=sys.argv[2])
rows = datasets.load_dataset(sys.argv[1], "rows", cache_dir=sys.argv[2])["train"]
data = found["train"].with_format("numpy")
print(json.dumps({"splits": list(found), "rows": len(data), "ids": data["sample_id"][:].tolist(),
  "columns": data.column_names, "first": np.asarray(data["values"][:1]).tolist(), "labels": rows["label"][:10]}))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(digits), str(digits.parent / "hf")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["splits"], found["rows"], found["ids"]) == (["train"], 1797, list(range(1797)))
    assert found["columns"] == ["values", "valid", "sample_id", "view"]
    assert found["labels"] == list(range(10))
    stored = softcache.open(digits)["digit@a"].read([0]).values.float()
    assert torch.equal(torch.tensor(found["first"]), stored)


def test_plain_zarr(digits: Path) -> None:
    cache = softcache.open(digits)
    values, ids = [], []
    for shard in sorted((digits / "data/embedding@a").rglob("*.zarr")):
        group = zarr.open_group(shard, mode="r")
        values.append(group["values"][:])
        ids += group["sample_id"][:].tolist()
        assert group["valid"][:].all()
        assert not group["view"][:].any()
        assert group.attrs["softcache"]["target"] == "embedding@a"
    assert ids == list(range(1797))
    assert np.array_equal(np.concatenate(values), cache["embedding@a"].read(slice(None)).values.numpy())


def test_to_hf_is_memory_mapped(digits: Path) -> None:
    found = softcache.open(digits)["digit@b"].to_hf()
    assert len(found) == 1797
    assert all(Path(f["filename"]).is_relative_to(digits) for f in found.cache_files)
    assert isinstance(found.features["values"], datasets.List)


def test_open_is_lazy_and_picklable(digits: Path) -> None:
    cache = softcache.open(str(digits))
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.targets == cache.targets
    assert copy.commit == cache.commit
    assert torch.equal(copy["digit@a"].read([7]).values, cache["digit@a"].read([7]).values)
    target = pickle.loads(pickle.dumps(cache["digit@c"]))
    assert torch.equal(target.read([7]).values, cache["digit@c"].read([7]).values)
    assert len(pickle.dumps(cache)) < 1000


def test_names(digits: Path) -> None:
    cache = softcache.open(digits)
    assert cache.targets == ("digit@a", "digit@b", "digit@c", "embedding@a")
    assert cache["embedding"].name == "embedding@a"
    assert list(cache) == list(cache.targets)
    assert cache["digit@a"].task.value_kind == "logits"
    assert cache["digit@a"].stats["rows"] == len(cache["digit@a"]) == 1797
    assert cache["digit@a"].provenance["declaration"]["teacher"]["sources"].keys() == {"model.py"}
    for wrong, said in (("digit", "digit@a, digit@b, digit@c"), ("nothing", "embedding@a")):
        with pytest.raises(softcache.SoftcacheError, match=said):
            cache[wrong]


def test_building_again_costs_nothing(digits: Path) -> None:
    again = softcache.build(RECIPE, digits)
    assert (again.answered, again.up_to_date, again.commit) == (0, True, 1)
    assert [t.accuracy for t in again.targets][:3] == [pytest.approx(0.99, abs=0.01)] * 3


def test_train(digits: Path) -> None:
    script = RECIPE.parent / "train.py"
    run = subprocess.run(
        [sys.executable, str(script), str(digits), "--seeds", "4"], capture_output=True, text=True, check=True
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(("hard", "soft"))]
    assert len(lines) == 6
    means = {line.split("  ")[0]: float(line.split()[-4]) for line in lines}
    assert all(mean > 0.85 for mean in means.values())
    assert means["soft targets, T = 2"] > means["hard labels"]
