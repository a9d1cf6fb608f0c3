"""From a recipe's `augmentation` to its declaration, and to the transform itself."""

from __future__ import annotations

from functools import partial

from softcache.errors import AugmentationError, RecipeError
from softcache.recipe import Recipe
from softcache.store.declarations import AugmentationDeclaration
from softcache.teachers.inputs import source_hashes
from softcache.transfer.augmentation import Augmentation
from softcache.transfer.python import load_object, source_files


def declare_augmentation(recipe: Recipe) -> AugmentationDeclaration | None:
    """Return what decides a recipe's views (docs/format.md, section 3.1), None without augmentation.

    Raises RecipeError or TeacherError for code that cannot be imported or read.
    """
    described = recipe.augmentation
    if described is None:
        return None
    files = source_files(described.transform) if described.code is None else map(recipe.path, described.code)
    return {
        "transform": described.transform,
        "arguments": dict(described.arguments),
        "column": described.column,
        "seed": described.seed,
        "sources": source_hashes(list(files), recipe.folder),
    }


def load_augmentation(recipe: Recipe) -> Augmentation | None:
    """Return a recipe's augmentation, None without one. Raises RecipeError if its transform cannot be used."""
    described = recipe.augmentation
    if described is None:
        return None
    transform = load_object(described.transform)
    try:
        if isinstance(transform, type):
            transform = transform(**described.arguments)
        elif described.arguments:
            transform = partial(transform, **described.arguments)
        return Augmentation(transform, seed=described.seed, column=described.column)
    except (AugmentationError, TypeError, ValueError) as e:
        raise RecipeError(f"augmentation.transform: {described.transform}: {e}") from e
