"""Whether a recipe's tasks agree with what its teachers and its transfer set say about themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from softcache.errors import RecipeError, name_some
from softcache.kinds import KINDS
from softcache.recipe import Recipe, TaskRecipe
from softcache.teachers import OutputSpec


def check_output(task: TaskRecipe, teacher: str, output: OutputSpec) -> None:
    """Compare a task with what its teacher declares about its output. Raises RecipeError."""
    spec = task.spec(teacher, "" if KINDS[task.kind].has_tokens else None)
    said = {"kind": task.kind, "value_kind": task.value_kind, "shape": spec.shape, "classes": spec.shape[0]}
    declared = {"kind": output.kind, "value_kind": output.value_kind, "shape": output.shape, "classes": output.classes}
    problems = [
        f"{name} is {said[name]!r}; teacher {teacher} answers {value!r}"
        for name, value in declared.items()
        if value is not None and said[name] != value
    ]
    if not problems and task.labels is not None and output.labels is not None:
        ours = task.labels if spec.known is None else [task.labels[i] for i in spec.known]
        if len(output.labels) not in (len(ours), len(ours) + spec.dustbin):
            problems.append(f"{len(ours)} labels; teacher {teacher} has {len(output.labels)}")
        else:
            problems += _other_labels(ours, output.labels[: len(ours)], f"teacher {teacher}")
    if problems:
        raise RecipeError(problems)


def check_labels(recipe: Recipe, names: Callable[[str], Sequence[str] | None]) -> None:
    """Compare the labels of tasks with the names that the transfer set gives to the numbers in a column.

    Raises RecipeError if the labels differ, or are in another order.
    """
    problems = []
    for key, task in recipe.tasks.items():
        given = None if task.label is None else names(task.label)
        classes = task.classes or len(task.labels or ())
        if given is None or not KINDS[task.kind].activations:
            continue
        where = f"column {task.label!r} of the transfer set"
        if len(given) != classes:
            problems.append(f"tasks.{key}: {classes} classes; {where} has {len(given)}: {name_some(list(given))}")
        elif task.labels is not None:
            problems += [f"tasks.{key}: {line}" for line in _other_labels(task.labels, given, where)]
    if problems:
        raise RecipeError(problems)


def _other_labels(ours: Sequence[str], theirs: Sequence[str], whose: str) -> list[str]:
    """Return how two lists of labels differ, nothing if they are equal."""
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not wrong:
        return []
    first = wrong[0]
    how = "labels are in another order than" if set(ours) == set(theirs) else "labels differ from"
    return [f"{how} those of {whose}: class {first} is {ours[first]!r} here, {theirs[first]!r} there"]
