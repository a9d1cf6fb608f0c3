"""Functions that a recipe names as `module:function`.

A recipe is trusted: this imports and runs its code. Nothing read from a cache ever comes here.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from softcache.errors import RecipeError


@contextmanager
def recipe_modules(folder: Path) -> Iterator[None]:
    """Let modules of `folder` be imported, before installed ones, while a recipe is at work.

    They are read from their sources now and forgotten afterwards: two recipes may both have a `model.py`, and the code
    that is hashed is the code that runs. Code that asks the interpreter to exit is a RecipeError.
    """
    folder = folder.resolve()
    names = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/*.py")}
    hidden = _take_out(lambda name, _: name.partition(".")[0] in names)
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    except SystemExit as e:
        raise RecipeError(f"code of the recipe in {folder} asked the interpreter to exit ({e.code!r})") from e
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        _take_out(lambda _, module: _lies_in(module, folder))
        sys.modules.update(hidden)


def load_callable(reference: str) -> Callable[..., Any]:
    """Return the function that `module:function` names. Raises RecipeError if it cannot be imported or called."""
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise RecipeError(f"{reference!r}: expected module:function")
    try:
        found: Any = importlib.import_module(module_name)
        for part in function_name.split("."):
            found = getattr(found, part)
    except Exception as e:
        raise RecipeError(f"{reference!r} cannot be imported: {type(e).__name__}: {e}") from e
    if not callable(found):
        raise RecipeError(f"{reference!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def source_files(reference: str) -> list[Path]:
    """Return the source files of the module in `module:function`, and of the function if that lies elsewhere."""
    function = load_callable(reference)
    found = {sys.modules[reference.partition(":")[0]].__file__}
    for part in (function, getattr(function, "func", None)):
        try:
            found.add(inspect.getsourcefile(inspect.unwrap(part)) if callable(part) else None)
        except TypeError:
            continue
    return sorted(Path(file) for file in found if file is not None and file.endswith(".py"))


def _take_out(chosen: Callable[[str, ModuleType], bool]) -> dict[str, ModuleType]:
    """Remove modules from those that are imported, and return them."""
    return {name: sys.modules.pop(name) for name, module in list(sys.modules.items()) if chosen(name, module)}


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().is_relative_to(folder)
