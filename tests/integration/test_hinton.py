"""recipes/hinton on scikit-learn's digits: small networks, few epochs, and no teacher while students train."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_recipes import command, copied, modules_of, rows, run

import softcache

WEIGHTS = "cache-teacher (digits, 96 units, 40 epochs).safetensors"
MNIST = Path(__file__).parents[3] / "shared/data/mnist"


recipe_modules = modules_of("hinton")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the recipe, and the cache of a small teacher."""
    folder = tmp_path_factory.mktemp("hinton")
    recipe = copied(folder, "hinton")
    said = run(recipe, "build.py", folder / "cache", "--data", "digits", "--epochs", 40, "--width", 96)
    assert "epoch 40: " in said
    return folder


@pytest.mark.slow
def test_students_train_without_the_teacher(built: Path) -> None:
    """Its code and its weights are moved away; what is trained is trained once; a student can go on from its middle."""
    alone = copied(built / "alone", "hinton", without=("teacher.py", "build.py", "recipe.yaml"))
    weights = built / WEIGHTS
    weights.rename(built / "elsewhere")
    try:
        arguments = [built / "cache", "--data", "digits", "--epochs", 2, "--seeds", 1, "--out", alone / "a"]
        arguments += ["--parts", "main", "omitted", "few"]
        said = run(alone, "train.py", *arguments)
    finally:
        (built / "elsewhere").rename(weights)
    for row in ("hard labels", "soft targets, T = 20", "no 3: honest errors on unseen", "only 7 and 8"):
        assert f"\n| {row} |" in said
    assert said.count("2 of 2 trained") == 3
    results = json.loads((alone / "a/results.json").read_text())
    assert len(results) == 6, "a student in two tables is trained once"
    assert not list((alone / "a").glob("*.pt"))
    again = run(alone, "train.py", *arguments)
    assert "trained" not in again
    assert rows(said) == rows(again)
    drawn = run(alone, "pictures.py", alone / "a").split()
    assert [Path(path).name for path in drawn] == ["sweep.png", "curves.png"]
    assert all(Path(path).stat().st_size > 5000 for path in drawn)


@pytest.mark.slow
def test_students_by_the_clock(built: Path) -> None:
    arguments = [built / "cache", built / WEIGHTS, "--data", "digits", "--epochs", 1, 8, "--seeds", 2]
    said = run(built / "hinton", "equal_time.py", *arguments)
    table = [row.strip("| ").split(" | ") for row in rows(said)[2:]]
    assert [row[0] for row in table] == ["hard labels", "live teacher", "cache", "cache, its build counted"]
    assert table[2][2].endswith("(1 epoch)")
    assert table[2][3].endswith("(8 epochs)")
    assert table[3][2] == "none", "a build takes longer than an epoch of a few small images"
    folder = built / "cache-equal-time"
    assert (folder / "equal_time.png").stat().st_size > 5000
    again = run(built / "hinton", "equal_time.py", *arguments)
    assert "trained" not in again
    assert rows(again) == rows(said)


def test_a_live_teacher_and_its_cache(built: Path, tmp_path: Path) -> None:
    """A live teacher's student and one of its cache are the same, if trained as long, but for what storing rounds."""
    from equal_time import CACHE, train

    common = {"cache": str(built / "cache"), "teacher": str(built / WEIGHTS), "data": "digits", "batch": 100}
    common |= {"rate": 0.05, "epochs": 1, "seed": 1}
    found = {}
    for kind in ("live teacher", CACHE):
        train(common | {"kind": kind}, tmp_path / f"{kind}.pt")
        found[kind] = torch.load(tmp_path / f"{kind}.pt", weights_only=True)["parts"]["model"]
    for name, weight in found[CACHE].items():
        assert (weight - found["live teacher"][name]).norm() < 1e-3 * weight.norm(), name


@pytest.mark.slow
def test_a_killed_run_goes_on(built: Path) -> None:
    """Students are what they would have been without the kill."""
    arguments = ["train.py", built / "cache", "--data", "digits", "--parts", "main"]
    arguments += ["--seeds", 1, "--epochs", 15, "--out"]
    killed_one = command(built / "hinton", *arguments, built / "killed")
    with subprocess.Popen(killed_one, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}) as killed:
        while killed.poll() is None and not list((built / "killed").glob("*.pt")):
            time.sleep(0.01)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL, "it was killed before it was done"
    assert not (built / "killed/results.json").exists()
    tables = [rows(run(built / "hinton", *arguments, built / name)) for name in ("killed", "whole")]
    assert tables[0] == tables[1]
    found = [json.loads((built / name / "results.json").read_text()) for name in ("killed", "whole")]
    killed_curves, curves = ({json.dumps(each["job"]): each["curve"] for each in one} for one in found)
    assert killed_curves == curves
    assert all(len(curve) == 15 for curve in curves.values())


def test_the_teacher_sees_each_image_shifted() -> None:
    from build import jittered, limit

    image = torch.zeros(1, 28, 28)
    image[0, 10, 12] = 1
    found = jittered(image.expand(2000, 28, 28), torch.Generator().manual_seed(0)).nonzero()[:, 1:]
    places = {tuple(place) for place in found.tolist()}
    assert places == {(10 + down, 12 + right) for down in range(-2, 3) for right in range(-2, 3)}
    layer = torch.nn.Linear(784, 3)
    layer.weight.data[0] *= 1000
    small = layer.weight[1:].clone()
    limit([layer])
    assert layer.weight[0].norm().item() == pytest.approx(15**0.5)
    assert torch.equal(layer.weight[1:], small)


def test_students_whose_settings_change(built: Path, tmp_path: Path) -> None:
    """T and alpha that go from one number to another, and another width: each makes another student."""
    from train import jobs, train

    rows = {title: each for part in ("annealed", "sweep") for title, each in jobs(part, 1).items()}
    assert len(rows) == 9 + 16
    common = {"cache": str(built / "cache"), "data": "digits"}
    titles = ("alpha = 1, T = 20", "alpha = 1, T = 20 to 1", "alpha = 1 to 0.5, T = 4", "300 units, T = 20")
    found = [train(rows[title][0] | common | {"epochs": 4}, tmp_path / f"{title}.pt")["curve"] for title in titles]
    assert all(len(curve) == 4 for curve in found)
    assert len({tuple(curve) for curve in found}) == 4


def test_digits_that_are_left_out(built: Path) -> None:
    from data import tensors
    from train import SOFT, transfer_set

    labels = tensors("digits", "train")[1]
    seen = labels[transfer_set(SOFT | {"digits": "012456789"}, labels)]
    assert set(seen.tolist()) == {0, 1, 2, 4, 5, 6, 7, 8, 9}
    assert len(seen) == int((labels != 3).sum())
    some, others = (transfer_set(SOFT | {"share": 0.03, "seed": seed}, labels) for seed in (0, 1))
    assert len(some) == int(0.03 * len(labels))
    assert not torch.equal(some, others)
    cache = softcache.open(built / "cache")
    assert cache["digit"].stats["valid"] == len(labels)


@pytest.mark.skipif(not MNIST.is_dir(), reason="MNIST is not beside the project")
def test_real_images() -> None:
    from data import samples, tensors

    images, labels = tensors(str(MNIST), "test")
    assert images.shape == (10_000, 28, 28)
    assert int((labels == 3).sum()) == 1010
    found = samples(str(MNIST))
    assert len(found["index"]) == len(found["label"]) == 60_000
    assert np.bincount(found["label"]).min() == 5421
