"""A recipe's own code: imported again for each build, hashed, and kept apart from the process that builds."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.cli import main
from softcache.errors import (
    IncompatibleTarget,
)


def test_helpers_are_imported_again(workshop: Workshop, tmp_path: Path) -> None:
    """The hashed code is the code that runs, after an edit and beside another recipe's module of the same name."""
    model = (
        (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * helper.SCALE")
    )
    workshop.write("model.py", "import helper\n" + model)
    workshop.recipe["teachers"]["t"]["code"] = ["model.py", "helper.py"]
    for scale in (1, 7):
        workshop.write("helper.py", f"SCALE = {scale}\n")
        workshop.cache = tmp_path / f"cache{scale}"
        workshop.build()
        found = workshop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, workshop.answers() * scale, atol=1e-4)
    (tmp_path / "second").mkdir()
    other = Workshop(tmp_path / "second")
    other.write("model.py", "import helper\n" + model)
    other.write("helper.py", "SCALE = 5\n")
    other.build()
    assert torch.allclose(other.open()["cls"].lookup(range(40)).values.double(), other.answers() * 5, atol=1e-4)
    assert "helper" not in sys.modules
    assert "model" not in sys.modules


def test_packages_and_late_imports(workshop: Workshop) -> None:
    (workshop.folder / "pkg").mkdir()
    workshop.write("pkg/__init__.py", "")
    workshop.write("pkg/parts.py", "SCALE = 3\n")
    model = (workshop.folder / "model.py").read_text()
    workshop.write(
        "pkg/net.py",
        "from .parts import SCALE\n"
        + model.replace("self.scale}", "late()}").replace("return {", "from pkg import parts\n        return {"),
    )
    workshop.recipe["teachers"]["t"]["model"] = "pkg.net:Linear"
    text = (
        (workshop.folder / "pkg/net.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * parts.SCALE")
    )
    workshop.write(
        "pkg/net.py",
        text.replace("HERE = pathlib.Path(__file__).parent", "HERE = pathlib.Path(__file__).parent.parent"),
    )
    workshop.build()
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers() * 3, atol=1e-4)


def test_folders_without_init_are_imported_again(workshop: Workshop, tmp_path: Path) -> None:
    (workshop.folder / "parts").mkdir()
    model = (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "self.head(x) * SCALE")
    workshop.write("model.py", "from parts.sizes import SCALE\n" + model)
    for scale in (2, 9):
        workshop.write("parts/sizes.py", f"SCALE = {scale}\n")
        workshop.cache = tmp_path / f"cache{scale}"
        workshop.build()
        found = workshop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, workshop.answers() * scale, atol=1e-4)


def test_code_behind_partials_and_instances_counts(workshop: Workshop) -> None:
    model = (workshop.folder / "model.py").read_text()
    workshop.write("model.py", model + "\n\nimport functools\nmake = functools.partial(Linear, scale=2.0)\n")
    workshop.recipe["teachers"]["t"]["model"] = "model:make"
    workshop.build()
    workshop.write("model.py", (workshop.folder / "model.py").read_text().replace("scale=2.0", "scale=9.0"))
    with pytest.raises(IncompatibleTarget, match=r"sources\.model\.py"):
        workshop.build()


def test_outside_files_of_one_name_both_count(workshop: Workshop, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "util.py").write_text(f"# {folder}\n")
    workshop.recipe["teachers"]["t"]["code"] = ["model.py", "../x/util.py", "../y/util.py"]
    workshop.build()
    (tmp_path / "x/util.py").write_text("# changed\n")
    with pytest.raises(IncompatibleTarget, match=r"util\.py"):
        workshop.build()


def test_moved_weights_are_the_same_weights(workshop: Workshop) -> None:
    workshop.build()
    (workshop.folder / "weights.safetensors").rename(workshop.folder / "renamed.safetensors")
    assert workshop.build("teachers.t.weights=renamed.safetensors").up_to_date


def test_sys_exit_in_a_recipe_is_an_error(workshop: Workshop) -> None:
    workshop.write("data.py", "import sys\n\n\ndef samples():\n    sys.exit(0)\n")
    result = CliRunner().invoke(main, ["build", str(workshop.save()), "-o", str(workshop.cache)])
    assert result.exit_code == 2
    assert "asked the interpreter to exit" in result.stderr


def test_builds_in_threads_take_turns(tmp_path: Path) -> None:
    """Both recipes have a `model.py`; each cache holds its own teacher's answers."""
    shops = []
    for scale in (2, 3):
        (tmp_path / str(scale)).mkdir()
        shop = Workshop(tmp_path / str(scale))
        model = (shop.folder / "model.py").read_text().replace("self.head(x) * self.scale", f"self.head(x) * {scale}")
        shop.write("model.py", model)
        shop.save()
        shops.append((shop, scale))
    path = list(sys.path)
    threads = [threading.Thread(target=shop.build) for shop, _ in shops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.path == path
    for shop, scale in shops:
        found = shop.open()["cls"].lookup(range(40)).values.double()
        assert torch.allclose(found, shop.answers() * scale, atol=1e-4)


def test_imported_modules_are_left_alone(workshop: Workshop) -> None:
    """A build leaves the modules of a script, of its packages and of libraries beside the recipe as they were."""
    for name, text in {
        "train.py": "class Data: ...\n",
        "src/mine/__init__.py": "class C: ...\n",
        "torch/notes.py": "",
        "numpy/x.py": "",
        "types.py": "",
        "softcache/notes.py": "",
    }.items():
        (workshop.folder / name).parent.mkdir(parents=True, exist_ok=True)
        workshop.write(name, text)
    script = f"""
import pickle, sys
sys.path[:0] = ["src", "."]
import mine, model, torch, numpy, softcache
class D: ...
before = dict(sys.modules)
softcache.build("recipe.yaml", {str(workshop.cache)!r})
changed = [n for n, m in before.items() if sys.modules.get(n) is not m]
assert not changed, changed
pickle.dumps([D(), mine.C(), model.Linear])
softcache.open({str(workshop.cache)!r})["cls"].lookup([1])
"""
    workshop.write("run.py", script)
    workshop.save()
    root = str(Path(softcache.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "run.py"],
        cwd=workshop.folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root, "PYTHONSAFEPATH": "1"},
    )
    assert run.returncode == 0, run.stderr
