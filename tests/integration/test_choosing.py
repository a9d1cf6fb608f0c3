"""recipes/choosing on scikit-learn's digits."""

import json
from pathlib import Path

import pytest
from paper_recipes import copied, rows, run

import softcache


@pytest.mark.long
def test_students_beside_what_was_said_of_their_teachers(tmp_path: Path) -> None:
    """Teachers are evaluated on images that they have not seen; students are trained without them."""
    recipe, cache = copied(tmp_path, "choosing"), tmp_path / "cache"
    run(recipe, "build.py", cache, "--data", "digits", "--epochs", 0.5)
    evaluation = json.loads((tmp_path / "cache-teachers/evaluation.json").read_text())
    found = {each["teacher"]: each for each in evaluation["candidates"]}
    names = ["small", "wide", "long", "careful", "smoothed", "early"]
    assert list(found) == [*names, "all together"]
    trained = (1797 - 599) * 5 // 6
    assert all(each["samples"] == 1797 - 599 - trained for each in found.values())
    assert softcache.open(cache)["class@early"].stats["valid"] == trained
    # Each is what its name says.
    metrics = {name: each["metrics"] for name, each in found.items()}
    assert metrics["early"]["accuracy"] < metrics["long"]["accuracy"]
    assert metrics["smoothed"]["entropy"]["1"] > metrics["careful"]["entropy"]["1"] > metrics["long"]["entropy"]["1"]

    (tmp_path / "cache-teachers/evaluation.json").rename(tmp_path / "evaluation.json")
    (tmp_path / "cache-teachers").rename(tmp_path / "elsewhere")
    alone = copied(tmp_path / "alone", "choosing", without=("build.py", "recipe.yaml"))
    arguments = (cache, "--data", "digits", "--seeds", 2, "--epochs", 1, "--out", tmp_path / "students")
    said = run(alone, "train.py", *arguments, "--evaluation", tmp_path / "evaluation.json")
    table = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in rows(said)}
    assert list(table) == ["teacher", "---|--:|--:|--:|--:|--:|--:|--:", "none: hard labels", *names]
    assert table["long"][1] == f"{100 * metrics['long']['accuracy']:.2f}"
    assert "26 of 26 trained" in said
    (picture,) = run(alone, "pictures.py", tmp_path / "students", tmp_path / "evaluation.json").split()
    assert Path(picture).stat().st_size > 5000
