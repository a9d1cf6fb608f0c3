"""recipes/multitask: scenes and their labels, measures, and a tiny run of everything."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paper_recipes import copied, modules_of, rows, run

import softcache

recipe_modules = modules_of("multitask")


@pytest.mark.long
def test_teachers_and_students_of_four_tasks(tmp_path: Path) -> None:
    recipe, cache = copied(tmp_path, "multitask"), tmp_path / "cache"
    settings = ("--data", "digits", "--count", 500)
    run(recipe, "build.py", cache, *settings, "--epochs", 1)
    assert {name.split("@")[1] for name in softcache.open(cache).targets} == {"together"}
    run(recipe, "build.py", cache, *settings, "--epochs", 1, "--alone")
    opened = softcache.open(cache)
    assert {name.split("@")[0] for name in opened.targets} == {"digit", "mask", "box", "angle", "trunk"}
    table = opened.rows.table()
    assert np.bincount(np.array(table["digit"])).tolist() == [4 * 10] * 10, "four views of each scene, in balance"
    assert max(table["covered"].to_pylist()) <= 0.3

    alone = copied(tmp_path / "alone", "multitask", without=("build.py", "recipe.yaml"))
    (tmp_path / "cache-teachers").rename(tmp_path / "elsewhere")
    arguments = (cache, *settings, "--epochs", 1, "--seeds", 1, "--out", tmp_path / "students")
    said = run(alone, "train.py", *arguments, "--tables", "main", "weights", "teachers", "views")
    titles = [row.split(" | ")[0].strip("| ") for row in rows(said)][2:]
    assert titles[:5] == [*(f"{task} alone, hard labels" for task in ("digit", "mask", "box", "angle")), "hard labels"]
    assert titles[5:7] == ["soft labels", "soft labels and features"]
    assert titles[7:11] == [f"soft labels, {rule}" for rule in ("uncertainty", "DWA", "GradNorm", "UPGrad")]
    assert titles[11:] == ["soft labels of four teachers", "hard labels, fresh views in each epoch"]
    found = json.loads((tmp_path / "students/results.json").read_text())
    assert len(found) == 13
    assert all(set(each["curve"][-1]) <= set(each) for each in found)
    drawn = [Path(path) for path in run(alone, "pictures.py", tmp_path / "students").split()]
    assert [path.stem for path in drawn] == ["digit", "mask", "box", "angle", "mistakes"]
    assert all(path.stat().st_size > 5000 for path in drawn)


@pytest.mark.long
def test_students_go_on_from_their_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train
    from build import main

    monkeypatch.setattr(
        "sys.argv", ["", str(tmp_path / "cache"), "--data", "digits", "--count", "500", "--epochs", "1"]
    )
    main()
    job = train.STUDENT | train.HINT | {"cache": str(tmp_path / "cache"), "data": "digits", "count": 500}
    job |= {"weights": "GradNorm", "epochs": 3, "seed": 1}
    whole = train.train(job, tmp_path / "whole.pt")
    real = train.measures
    calls = []

    def killed(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(train, "measures", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(job, tmp_path / "killed.pt")
    assert train.train(job, tmp_path / "killed.pt") == whole | {"weights": "killed.safetensors"}


def test_labels_fit_their_scenes() -> None:
    """A box is around its mask; digits that are turned back look alike."""
    from scenes import CANVAS, MASK, boxes, placed, scenes

    found = scenes("digits", "test", 200, 3)
    for mask, box in zip(found["mask"][:, 0], found["box"] * MASK, strict=True):
        ys, xs = mask.nonzero().T
        around = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (around - box).abs().max() <= 1, "the mask has half as many pixels as the canvas"
    assert np.bincount(found["digit"]).min() > 5

    bar = torch.zeros(1, 28, 28)
    bar[0, 13:15, 14:26] = 1  # from the centre to the right

    def ends(degrees: float, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> list[float]:
        canvas = placed(bar, torch.tensor([math.radians(degrees)]), torch.tensor([scale]), torch.tensor([shift]))
        return (boxes(canvas > 0.5)[0] * CANVAS - CANVAS / 2).tolist()

    assert ends(0) == pytest.approx([0, -1, 12, 1], abs=1)
    assert ends(90) == pytest.approx([-1, 0, 1, 12], abs=1), "a positive angle turns clockwise"
    assert ends(0, scale=1.5) == pytest.approx([0, -1.5, 18, 1.5], abs=1)
    assert ends(0, shift=(0.25, -0.5)) == pytest.approx([6, -13, 18, -11], abs=1), "shifts are half canvases"


def test_average_precision() -> None:
    from measures import average_precision

    labels = {"digit": torch.arange(10), "box": torch.tensor([[0.2, 0.1, 0.6, 0.5]]).repeat(10, 1)}
    sure = {"digit": 9 * torch.eye(10), "box": labels["box"]}
    assert average_precision(sure, labels) == {"box AP": pytest.approx(1)}
    assert average_precision({"box": labels["box"]}, labels) == {}
    others = sure | {"digit": sure["digit"].roll(1, 0)}
    assert average_precision(others, labels) == {"box AP": 0}, "each box is there, but of another class"
    near = sure | {"box": labels["box"] * 0.9}
    assert average_precision(near, labels)["box AP"] == pytest.approx(0.4), "0.698 is enough for 0.5 to 0.65"


def test_measures() -> None:
    from measures import gain, measures, overlap

    digits = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0])
    said = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1])
    masks = torch.zeros(12, 1, 24, 24)
    masks[:, :, 4:8, 4:8] = 1
    answered = torch.full_like(masks, -1.0)
    answered[:, :, 4:8, 4:6] = 1.0
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(12, 4)
    degrees = torch.linspace(-170, 170, 12)
    angles, theirs = (
        torch.stack([torch.deg2rad(each).cos(), torch.deg2rad(each).sin()], 1) for each in (degrees, degrees + 20)
    )
    found = measures(
        {
            "digit": torch.nn.functional.one_hot(said, 10).float(),
            "mask": answered,
            "box": boxes * 0.9,
            "angle": 3 * angles,
        },
        {"digit": digits, "mask": masks, "box": boxes, "angle": theirs},
    )
    f1 = [2 * 2 / (3 + 3), 2 / 3, *[1.0] * 7, 0.0]
    assert found["accuracy"] == pytest.approx(10 / 12)
    assert found["worst recall"] == 0
    assert found["F1"] == pytest.approx(sum(f1) / 10)
    assert found["IoU"] == pytest.approx(0.5)
    assert overlap(boxes * 0.9, boxes)[0].item() == pytest.approx(0.81)
    assert found["box AR"] == pytest.approx(0.7), "0.81 is enough for 0.5 to 0.8"
    assert found["angle error"] == pytest.approx(20, abs=1e-3)
    better = found | {"accuracy": 1.0, "angle error": 10.0}
    assert gain(better, found) == pytest.approx(100 * (0.2 + 0.5) / 4)
    assert gain(found, found) == 0
