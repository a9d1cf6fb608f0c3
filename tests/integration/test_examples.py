"""The examples in the docstrings of the public names run, in a folder with the caches that they name."""

import doctest
import io
import shutil
import subprocess
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from language import Language

import softcache

ROOT = Path(__file__).parents[2]
PUBLIC = [
    name
    for name in softcache.__all__
    if name != "__version__"
    and not (isinstance(value := getattr(softcache, name), type) and issubclass(value, BaseException))
]
MODULES = [name for name in PUBLIC if isinstance(getattr(softcache, name), ModuleType)]
NAMES = [*PUBLIC, *(f"{module}.{name}" for module in MODULES for name in getattr(softcache, module).__all__)]


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The augmented cache of docs/views.md, of one teacher."""
    output = tmp_path_factory.mktemp("runs") / "views"
    overrides = ['augmentation={transform: "augment:shift", column: image, views: 3}', "~tasks.embedding"]
    overrides += ["tasks.digit.teachers=[a]", "~teachers.b", "~teachers.c"]
    softcache.build(ROOT / "recipes/digits/recipe.yaml", output, overrides)
    return output


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the target of recipes/lm, of a smaller model."""
    made = Language(tmp_path_factory.mktemp("language"))
    made.recipe["tasks"] = {"next": made.recipe["tasks"]["lm"]}
    made.build()
    return made.cache


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run(
    name: str, digits: Path, views: Path, language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, "runs/digits")
    Path("runs/views").symlink_to(views)
    Path("runs/lm").symlink_to(language)
    Path("recipes").symlink_to(ROOT / "recipes")
    Path("allowed_signers").touch()
    if name == "sign":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "id_ed25519"], check=True)
    public = attrgetter(name)(softcache)
    # The members of a module are public names of their own.
    finder = doctest.DocTestFinder(recurse=name not in MODULES)
    found = finder.find(public, name, module=False, globs={"softcache": softcache, "torch": torch})
    # Its own docstring has one, whether or not those of its methods do.
    assert [test for test in found if test.name == name and test.examples]
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    for test in found:
        runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()
