"""Functions that a recipe names as `module:function`.

Recipes are trusted: this module imports and runs their code. It never handles anything read from a cache.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from softcache.errors import RecipeError

PACKAGE = "package:"
_ONE_AT_A_TIME = threading.RLock()
_OWN = Path(__file__).parents[1]
_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


@contextmanager
def recipe_modules(folder: Path) -> Iterator[None]:
    """Make the modules of `folder` importable, ahead of installed ones, while a recipe is at work.

    Modules of the folder are always read from source, and are forgotten afterwards: two recipes may both have a
    `model.py`, and the code that is hashed is the code that runs. All other imported modules stay; those that were
    hidden meanwhile are restored. Imports belong to the whole process, so recipes in several threads take turns. Raises
    RecipeError if code of the recipe asks the interpreter to exit.
    """
    folder = folder.resolve()
    names = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    with _ONE_AT_A_TIME:
        hidden = {name: sys.modules.pop(name) for name in _own_modules(names)}
        before = set(sys.modules)
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            yield
        except SystemExit as e:
            raise RecipeError(f"code of the recipe in {folder} asked the interpreter to exit ({e.code!r})") from e
        finally:
            sys.path.remove(str(folder))
            sys.dont_write_bytecode = bytecode
            for name in {*_own_modules(names), *(n for n in sys.modules if n not in before and _lies_in(n, folder))}:
                del sys.modules[name]
            sys.modules.update(hidden)


def _own_modules(names: set[str]) -> list[str]:
    """Return the imported modules below some top-level names, except the running script and installed modules."""
    tops = {name for name in names if name != "__main__" and not _is_installed(sys.modules.get(name))}
    return [name for name in sys.modules if name.partition(".")[0] in tops]


def _is_installed(module: ModuleType | None) -> bool:
    """Whether a module belongs to the interpreter, a library or softcache. Such modules are never removed."""
    file = getattr(module, "__file__", None)
    if module is not None and not isinstance(file, str):
        return True
    path = Path(file).resolve() if file else Path()
    inside = any(path.is_relative_to(p) for p in (_OWN, *_INSTALLED))
    return inside or bool({"site-packages", "dist-packages"} & set(path.parts))


def _lies_in(name: str, folder: Path) -> bool:
    """Whether an imported module is a file below a folder, but not one installed there."""
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().is_relative_to(folder) and not _is_installed(module)


def resolve(folder: Path, text: str) -> Path:
    """Return the path that `text` means in a recipe: relative to `folder`, or `package:NAME/...` in a Python package.

    Raises RecipeError if no such package is installed.
    """
    if not text.startswith(PACKAGE):
        return folder / text
    name, _, inside = text.removeprefix(PACKAGE).partition("/")
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise RecipeError(f"{text}: no package of that name is installed")
    return Path(found.submodule_search_locations[0]) / inside


def load_object(reference: str) -> Any:
    """Return the object that `module:name` names. Raises RecipeError if it cannot be imported."""
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise RecipeError(f"{reference!r}: expected module:function")
    try:
        found: Any = importlib.import_module(module_name)
        for part in function_name.split("."):
            found = getattr(found, part)
    except Exception as e:
        raise RecipeError(f"{reference!r} cannot be imported: {type(e).__name__}: {e}") from e
    return found


def load_callable(reference: str) -> Callable[..., Any]:
    """Return the function that `module:function` names. Raises RecipeError if it cannot be imported or called."""
    found = load_object(reference)
    if not callable(found):
        raise RecipeError(f"{reference!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def source_files(reference: str) -> list[Path]:
    """Return the source files of the module in `module:function`, and of the function if it is defined elsewhere."""
    function = load_object(reference)
    found = {sys.modules[reference.partition(":")[0]].__file__}
    for part in (function, getattr(function, "func", None)):
        try:
            found.add(inspect.getsourcefile(inspect.unwrap(part)) if callable(part) else None)
        except TypeError:
            continue
    return sorted(Path(file) for file in found if file is not None and file.endswith(".py"))
