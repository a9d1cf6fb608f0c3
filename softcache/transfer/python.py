"""Functions that a recipe names as `module:function`.

A recipe is trusted: this imports and runs its code. Nothing read from a cache ever comes here.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from softcache.errors import RecipeError
from softcache.store.checksums import sha256


class _Uncached(SourceFileLoader):
    """Runs the source as it is, never a stale bytecode file: the code that is hashed is the code that runs."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_callable(reference: str, folder: Path) -> Callable[..., Any]:
    """Return the function that `module:function` names, with modules of `folder` before installed ones.

    Raises RecipeError if it cannot be imported or is not callable.
    """
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise RecipeError(f"{reference!r}: expected module:function")
    try:
        found: Any = _module(module_name, folder)
        for part in function_name.split("."):
            found = getattr(found, part)
    except RecipeError:
        raise
    except Exception as e:
        raise RecipeError(f"{reference!r} cannot be imported (folder {folder}): {type(e).__name__}: {e}") from e
    if not callable(found):
        raise RecipeError(f"{reference!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def source_files(reference: str, folder: Path) -> list[Path]:
    """Return the source files of the module in `module:function`, and of the function if that lies elsewhere."""
    function = load_callable(reference, folder)
    found = {_module(reference.partition(":")[0], folder).__file__}
    for part in (function, getattr(function, "func", None)):
        try:
            found.add(inspect.getsourcefile(inspect.unwrap(part)) if callable(part) else None)
        except TypeError:
            continue
    return sorted(Path(file) for file in found if file is not None and file.endswith(".py"))


def _module(name: str, folder: Path) -> ModuleType:
    file = folder.joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        return importlib.import_module(name)
    unique = (
        f"softcache_recipe_{sha256(str(file.resolve()).encode() + file.read_bytes())[:16]}_{name.replace('.', '_')}"
    )
    if unique in sys.modules:
        return sys.modules[unique]
    loader = _Uncached(unique, str(file))
    spec = importlib.util.spec_from_loader(unique, loader)
    if spec is None:
        raise ImportError(f"no loader for {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    sys.path.insert(0, str(folder))
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(str(folder))
    return module
