"""A recipe at work: read with its teachers' settings, its own modules importable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from softcache.recipe import Recipe, load_recipe
from softcache.teachers import find_adapter
from softcache.transfer.python import recipe_modules


@contextmanager
def opened_recipe(path: str | os.PathLike[str], overrides: Sequence[str]) -> Iterator[Recipe]:
    """Read a recipe, and make the modules in its folder importable while the context is open. Raises RecipeError."""
    with recipe_modules(Path(path).parent):
        yield load_recipe(path, overrides, find_adapter)
