"""`softcache validate`: check whether a recipe and its samples can be built, without running a teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from softcache.builder.prepare.augmentation import load_augmentation
from softcache.builder.prepare.opened_recipe import opened_recipe
from softcache.builder.prepare.targets import build_targets
from softcache.builder.prepare.transfer_set import open_transfer_set
from softcache.errors import AlignmentError, RecipeError, TransferSetError
from softcache.kinds import KINDS
from softcache.recipe import Recipe, TaskRecipe
from softcache.transfer.hygiene import NO_LABEL, Hygiene, inspect


@dataclass(frozen=True)
class Validation:
    """A valid recipe: its targets' names, what was found in its samples, and whether they can be built."""

    targets: list[str]
    hygiene: Hygiene
    buildable: bool

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


def validate(
    recipe: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: bool = False,
) -> Validation:
    """Check a recipe and its samples, or the first `limit` of them, without running a teacher.

    Imports the callables, hashes weights and sources, opens the transfer set, compares its columns with the recipe, and
    reads and decodes every sample. Raises RecipeError with every problem found.

    Examples:
        >>> validation = softcache.validate("recipes/digits/recipe.yaml", limit=100)
        >>> validation.buildable, validation.hygiene.samples
        (True, 100)
    """
    with opened_recipe(recipe, overrides) as loaded:
        problems: list[str] = []
        names: list[str] = []
        hygiene: Hygiene | None = None
        try:
            names = [t.name for t in build_targets(loaded)]
            load_augmentation(loaded)
        except RecipeError as e:
            problems += e.problems
        try:
            transfer_set = open_transfer_set(loaded, limit)
            with tqdm(total=len(transfer_set), unit=" samples", desc="decoding", disable=not progress) as bar:
                hygiene = inspect(transfer_set, transfer_set.scan(), label_checks(loaded), progress=bar.update)
        except (RecipeError, TransferSetError, AlignmentError) as e:
            problems.append(f"transfer_set: {e}")
    if problems or hygiene is None:
        raise RecipeError(problems)
    stops = hygiene.undecodable and loaded.build.on_bad_sample == "stop"
    lacking = set(hygiene.missing) & set(loaded.transfer_set.keep)
    return Validation(names, hygiene, not stops and not lacking)


def label_checks(recipe: Recipe) -> dict[str, Callable[[Any], bool]]:
    """Return, by label column, a function that says whether a value is a class of its tasks, or -1 for no label."""
    known: dict[str, list[TaskRecipe]] = {}
    for task in recipe.tasks.values():
        if task.label is not None and KINDS[task.kind].has_label:
            known.setdefault(task.label, []).append(task)
    return {label: partial(_is_class, tasks) for label, tasks in known.items()}


def _is_class(tasks: Sequence[TaskRecipe], value: Any) -> bool:
    """Return whether a value is a class, or no label, for all of these tasks."""
    numbers = (range(NO_LABEL, task.classes or len(task.labels or ())) for task in tasks)
    return all(
        value in (task.labels or ()) or (isinstance(value, int) and value in there)
        for task, there in zip(tasks, numbers, strict=True)
    )
