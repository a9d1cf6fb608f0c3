"""Opening a recipe's transfer set: its source, its subset, and which columns teachers read."""

from __future__ import annotations

from softcache.builder.prepare.task_checks import check_labels
from softcache.errors import RecipeError, SoftcacheError, TransferSetError
from softcache.recipe import DatasetSource, ImagesSource, PythonSource, Recipe, TransferSetRecipe
from softcache.teachers import Adapter
from softcache.transfer import Source, TransferSet, from_object
from softcache.transfer.python import load_callable
from softcache.transfer.sources import ImageFolder, open_dataset, open_files
from softcache.transfer.subsets import balanced, where


def open_transfer_set(recipe: Recipe, limit: int | None = None) -> TransferSet:
    """Open a recipe's transfer set. Raises RecipeError or TransferSetError."""
    described = recipe.transfer_set
    source = _subset(_open_source(recipe), described)
    apart = {described.id, *described.keep}
    reads = {name: _columns_read(teacher, source.columns, apart) for name, teacher in recipe.teachers.items()}
    check_labels(recipe, source.labels)
    content = described.content or sorted({column for columns in reads.values() for column in columns})
    for name, columns in reads.items():
        unseen = sorted(set(columns) - set(content))
        if unseen:
            raise RecipeError(
                f"transfer_set.content: teacher {name} reads {', '.join(unseen)}, which is not in it; "
                "a change there would go unnoticed"
            )
    column = None if recipe.augmentation is None else recipe.augmentation.column
    for name, columns in reads.items():
        if column is not None and column not in columns:
            raise RecipeError(f"augmentation.column: teacher {name} does not read {column!r}, but {', '.join(columns)}")
    return TransferSet(
        source=source,
        id=described.id,
        keep=tuple(described.keep),
        content=tuple(content),
        split=described.split,
        limit=limit,
    )


def teacher_reads(recipe: Recipe, name: str, transfer_set: TransferSet) -> list[str]:
    """Return the columns that a teacher of the recipe reads."""
    apart = {transfer_set.id, *transfer_set.keep}
    return _columns_read(recipe.teachers[name], transfer_set.source.columns, apart)


def _columns_read(teacher: Adapter, columns: tuple[str, ...], apart: set[str]) -> list[str]:
    """Return the columns that a teacher reads: those it lists, or all but the id and the kept ones."""
    return list(teacher.columns) if teacher.columns is not None else [c for c in columns if c not in apart]


def _subset(source: Source, described: TransferSetRecipe) -> Source:
    """Return the samples of a source that a recipe takes."""
    if described.where is not None:
        source = where(source, described.where)
    if described.balance is not None:
        source = balanced(source, described.balance.by, described.balance.each)
    return source


def _open_source(recipe: Recipe) -> Source:
    source = recipe.transfer_set.source
    if isinstance(source, PythonSource):
        make = load_callable(source.callable)
        try:
            return from_object(make(**source.arguments))
        except SoftcacheError:
            raise
        except Exception as e:
            raise TransferSetError(f"{source.callable} raised {type(e).__name__}: {e}") from e
    if isinstance(source, DatasetSource):
        local = recipe.path(source.path)
        return open_dataset(str(local) if local.exists() else source.path, source.name, source.split)
    if isinstance(source, ImagesSource):
        return ImageFolder(recipe.path(source.folder))
    return open_files(source.paths, recipe.folder)
