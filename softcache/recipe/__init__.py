"""Recipes: YAML and KEY=VALUE overrides, read into frozen models. All problems are reported at once.

A recipe names code that a build runs, so it must be trusted. Nothing in this package runs that code.
"""

from softcache.recipe.loading import load_recipe
from softcache.recipe.models import (
    DatasetSource,
    FilesSource,
    ImagesSource,
    PythonSource,
    Recipe,
    TaskRecipe,
    TransferSetRecipe,
)

__all__ = [
    "DatasetSource",
    "FilesSource",
    "ImagesSource",
    "PythonSource",
    "Recipe",
    "TaskRecipe",
    "TransferSetRecipe",
    "load_recipe",
]
