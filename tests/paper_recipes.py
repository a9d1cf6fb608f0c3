"""What the tests of the recipes that reproduce papers share: copies of a recipe, and running its scripts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"
SHARED = ("clock.py", "drawing.py", "experiments.py", "mnist.py")


def modules_of(recipe: str) -> Any:
    """Return a fixture that lets each test of a file import a recipe's modules, and then forgets them.

    Other recipes have modules of the same names.
    """

    @pytest.fixture(autouse=True)
    def recipe_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        before = set(sys.modules)
        for folder in (RECIPES, RECIPES / recipe):
            monkeypatch.syspath_prepend(str(folder))
        yield
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(RECIPES)):
                del sys.modules[name]

    return recipe_modules


def copied(folder: Path, recipe: str, *, without: tuple[str, ...] = ()) -> Path:
    """Copy a recipe, except for some of its files, and what all recipes share. Return the recipe's copy."""
    ignored = shutil.ignore_patterns("__pycache__", *without)
    shutil.copytree(RECIPES / recipe, folder / recipe, ignore=ignored)
    for name in SHARED:
        shutil.copy(RECIPES / name, folder)
    return folder / recipe


def command(recipe: Path, script: str, *arguments: object) -> list[str]:
    """Return the command that runs a script of a recipe."""
    return [sys.executable, str(recipe / script), *map(str, arguments)]


def run(recipe: Path, script: str, *arguments: object) -> str:
    """Run a script of a recipe and return what it prints."""
    found = subprocess.run(
        command(recipe, script, *arguments), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def rows(said: str) -> list[str]:
    """Return the rows of the tables that a script printed."""
    return [line for line in said.splitlines() if line.startswith("|")]
