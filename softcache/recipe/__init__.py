"""Recipes: YAML and KEY=VALUE overrides, read into frozen models. Every problem is reported at once.

A recipe names code that will be run: it is trusted. Nothing here runs it yet.
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
