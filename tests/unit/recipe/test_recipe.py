from pathlib import Path
from typing import Any

import pytest
import yaml

from softcache.errors import RecipeError
from softcache.recipe import load_recipe
from softcache.teachers import find_adapter

GOOD: dict[str, Any] = {
    "transfer_set": {"source": {"type": "python", "callable": "data:samples"}, "id": "id", "keep": ["label"]},
    "teachers": {"a": {"model": "m:make", "preprocess": "m:prep"}, "b": {"model": "m:make", "preprocess": "m:prep"}},
    "tasks": {"digit": {"kind": "classification", "classes": 10, "value_kind": "logits", "teachers": ["a", "b"]}},
}


def load(folder: Path, text: str, *overrides: str) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, find_adapter)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    return caught.value.problems


def test_good(tmp_path: Path) -> None:
    recipe = load(tmp_path, yaml.safe_dump(GOOD))
    assert recipe.targets() == {"digit@a": ("digit", "a"), "digit@b": ("digit", "b")}
    assert recipe.folder == tmp_path
    assert recipe.tasks["digit"].spec().shape == (10,)


def test_overrides(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        yaml.safe_dump(GOOD),
        "build.batch_size=7",
        "tasks.digit.teachers=[b]",
        "~teachers.a",
        "teachers.b.arguments.x=1.5",
    )
    assert recipe.build.batch_size == 7
    assert list(recipe.targets()) == ["digit@b"]
    assert recipe.teachers["b"].arguments == {"x": 1.5}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("build.batch_sise=7", "build.batch_sise: 7: unknown key; did you mean 'batch_size'?"),
        ("build.batch_size=0", "build.batch_size: 0: input should be greater than or equal to 1"),
        ("build.batch_size=many", "build.batch_size: 'many': input should be a valid integer"),
        (
            "tasks.digit.kind=clasification",
            "tasks.digit: kind is 'clasification'; expected one of classification, multilabel,",
        ),
        (
            "~tasks.digit.value_kind",
            "tasks.digit: value_kind is None; expected one of logits, log_probs, probs: it is never guessed",
        ),
        ("tasks.digit.teachers=[a, x]", "tasks.digit.teachers: 'x' is not a teacher of this recipe; known: a, b"),
        (
            "tasks.digit.store.dtype=fp16",
            "tasks.digit: store: dtype is 'fp16'; expected one of float32, float16, bfloat16",
        ),
        ("tasks.digit.label=truth", "tasks.digit.label: 'truth' is not in transfer_set.keep"),
        ("tasks.digit.name=x@y", "name is for a task with one teacher"),
        ("transfer_set.keep=[view]", "keep: view is reserved by the format"),
        ("transfer_set.split=a/b", "split 'a/b': expected letters"),
        ("~transfer_set.id", "transfer_set.id: missing"),
        ("~transfer_set.ids", "there is no transfer_set.ids; did you mean 'id'?"),
        ("transfer_set.source.type=pythn", "'python', 'dataset', 'files', 'images'"),
        (
            "transfer_set.source.calable=x:y",
            "transfer_set.source.python.calable: 'x:y': unknown key; did you mean 'callable'?",
        ),
        ("teachers.A={model: x, preprocess: y}", "teachers.A: 'A' cannot be part of a target's name"),
        ("taks.x=1", "taks: {'x': 1}: unknown key; did you mean 'tasks'?"),
        ("batch_size", "expected KEY=VALUE, or ~KEY to remove"),
        ("build.batch_size.x=[", "override"),
        ("transfer_set.id.x=1", "transfer_set.id is not a mapping"),
        ("folder=x", "folder: not a key"),
        ("teachers.a.arguments.x=.nan", "teachers.a.arguments.x: NaN and infinities"),
        ('teachers.a.arguments.x="\\ud800"', "teachers.a.arguments.x: half a surrogate pair"),
        ("teachers.a.arguments.x=2020-01-01", "teachers.a.arguments.x"),
    ],
)
def test_problems(tmp_path: Path, override: str, expected: str) -> None:
    found = problems(tmp_path, yaml.safe_dump(GOOD), override)
    assert any(expected in line for line in found), found
    assert all(str(tmp_path / "recipe.yaml") in line for line in found)


def test_all_problems_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, yaml.safe_dump(GOOD), "build.batch_size=0", "build.devise=cpu", "~transfer_set.id", "nonsense"
    )
    assert len(found) == 4


@pytest.mark.parametrize("text", ["", "- a", "a: [", "a: 1\na: 2", "\x00", "transfer_set: {id: a, id: b}"])
def test_not_a_recipe(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "absent.yaml", (), find_adapter)


def test_the_commented_recipe_is_valid(tmp_path: Path) -> None:
    from importlib.resources import files

    text = files("softcache.recipe").joinpath("example.yaml").read_text(encoding="utf-8")
    assert list(load(tmp_path, text).targets()) == ["digit@a"]
