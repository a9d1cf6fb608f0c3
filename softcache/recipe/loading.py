"""Reading a recipe: YAML, overrides, and all problems at once."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from softcache.errors import RecipeError
from softcache.recipe.models import (
    AugmentationRecipe,
    BalanceRecipe,
    BuildRecipe,
    DatasetSource,
    FilesSource,
    ImagesSource,
    PythonSource,
    Recipe,
    StoreRecipe,
    TaskRecipe,
    TransferSetRecipe,
)
from softcache.store.layout import is_name_part

DEFAULT_ADAPTER = "torch"


def load_recipe(
    path: str | os.PathLike[str], overrides: Sequence[str], find_adapter: Callable[[str], type[BaseModel]]
) -> Recipe:
    """Read a recipe and apply overrides: `a.b=VALUE` sets a key (VALUE is YAML), `~a.b` removes it.

    `find_adapter` returns the model for the settings of the adapter with a given name, or raises RecipeError. Raises
    RecipeError with every problem found, each with its path in the file, the value and what was expected.
    """
    file = Path(path)
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)
    except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise RecipeError(f"{file}: not readable as YAML: {e}") from e
    if not isinstance(data, dict):
        raise RecipeError(
            f"{file}: expected a mapping with transfer_set, teachers and tasks; softcache init writes an example"
        )
    problems = [problem for o in overrides if (problem := _override(data, o)) is not None]
    problems += _check_names(data)
    given = {str(key): value for key, value in data.items() if key != "folder"}
    given |= _teachers(given.get("teachers"), find_adapter, problems)
    try:
        recipe = Recipe(**given, folder=file.resolve().parent)
    except ValidationError as e:
        problems += [line for error in e.errors() for line in _explain(error)]
    if "folder" in data:
        problems.append("folder: not a key of recipes; paths are always relative to the recipe's own folder")
    if problems:
        raise RecipeError([f"{file}: {problem}" for problem in problems])
    return recipe


def _teachers(
    given: Any, find_adapter: Callable[[str], type[BaseModel]], problems: list[str]
) -> dict[str, dict[Any, Any]]:
    """Return the key `teachers` with each teacher's settings read; nothing if `teachers` is not a mapping."""
    if not isinstance(given, dict):
        return {}
    found = {}
    for name, settings in given.items():
        named = {"adapter": DEFAULT_ADAPTER} | settings if isinstance(settings, dict) else settings
        found[name] = named
        if not isinstance(named, dict):
            problems.append(f"teachers.{name}: {_short(settings)}: expected a mapping")
            continue
        try:
            model = find_adapter(str(named["adapter"]))
            found[name] = model(**{str(key): value for key, value in named.items()})
        except RecipeError as e:
            problems += [f"teachers.{name}.adapter: {line}" for line in e.problems]
        except ValidationError as e:
            for error in e.errors():
                located: Any = error | {"loc": ("teachers", name, *error["loc"])}
                problems += _explain(located, model)
    return {"teachers": found}


def _check_names(data: dict[str, Any]) -> list[str]:
    """Return the problems between a recipe's parts, whether or not each part is valid on its own."""
    teachers, tasks = _mapping(data.get("teachers")), _mapping(data.get("tasks"))
    keep = _list(_mapping(data.get("transfer_set")).get("keep"))
    problems = [
        f"{part}.{name}: {name!r} cannot be part of a target's name; use lower-case letters, digits and _.-"
        for part, names in (("teachers", teachers), ("tasks", tasks))
        for name in names
        if not is_name_part(str(name))
    ]
    seen: set[str] = set()
    for key, task in ((key, _mapping(task)) for key, task in tasks.items()):
        answering = [str(t) for t in _list(task.get("teachers"))]
        problems += [
            f"tasks.{key}.teachers: {t!r} is not a teacher of this recipe{_nearest(t, [str(n) for n in teachers])}"
            for t in answering
            if t not in teachers
        ]
        if task.get("label") is not None and task["label"] not in keep:
            problems.append(f"tasks.{key}.label: {task['label']!r} is not in transfer_set.keep")
        for target in [str(task["name"])] if task.get("name") else [f"{key}@{t}" for t in answering]:
            if target in seen:
                problems.append(f"tasks.{key}: target {target} is defined twice")
            seen.add(target)
    return problems


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that appears twice; YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _override(data: dict[str, Any], text: str) -> str | None:
    """Apply one override in place. Return what is wrong with it, or None."""
    removing = text.startswith("~")
    path, equals, value = text.removeprefix("~").partition("=")
    if removing == bool(equals) or not path:
        return f"override {text!r}: expected KEY=VALUE, or ~KEY to remove"
    *parents, last = path.split(".")
    at: Any = data
    for depth, part in enumerate(parents):
        if not isinstance(at, dict):
            return f"override {text!r}: {'.'.join(parents[:depth])} is not a mapping"
        if part not in at and removing:
            return f"override {text!r}: there is no {path}{_nearest(part, at)}"
        at = at.setdefault(part, {})
    if not isinstance(at, dict):
        return f"override {text!r}: {'.'.join(parents)} is not a mapping"
    if removing:
        return None if at.pop(last, at) is not at else f"override {text!r}: there is no {path}{_nearest(last, at)}"
    try:
        at[last] = yaml.load(value, _UniqueKeys)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as e:
        return f"override {_short(text)}: not readable as YAML: {e}"
    return None


def _explain(error: Any, adapter: type[BaseModel] | None = None) -> list[str]:
    """Return a validation error as problems. `adapter` is the settings' model if they are a teacher's."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        lines = str(error["ctx"]["error"]).split("\n")
        return [f"{where}: {line}" if where else line for line in lines]
    if error["type"] == "extra_forbidden":
        near = _nearest(str(error["loc"][-1]), _known_keys(error["loc"], adapter))
        return [f"{where}: {_short(error['input'])}: unknown key{near}"]
    if error["type"] == "missing":
        return [f"{where}: missing"]
    return [f"{where}: {_short(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: tuple[Any, ...], adapter: type[BaseModel] | None) -> Collection[str]:
    """Return the keys that are allowed where an unknown key was found."""
    sources: dict[str, type[BaseModel]] = {
        "python": PythonSource,
        "dataset": DatasetSource,
        "files": FilesSource,
        "images": ImagesSource,
    }
    match location:
        case ("transfer_set", "source", kind, _):
            model: type[BaseModel] = sources[kind]
        case ("transfer_set", "balance", _):
            model = BalanceRecipe
        case ("transfer_set", _):
            model = TransferSetRecipe
        case ("teachers", _, _) if adapter is not None:
            model = adapter
        case ("teachers", *_):
            return ()
        case ("tasks", _, _):
            model = TaskRecipe
        case ("tasks", _, "store", _):
            model = StoreRecipe
        case ("augmentation", _):
            model = AugmentationRecipe
        case ("build", _):
            model = BuildRecipe
        case _:
            model = Recipe
    return set(model.model_fields) - {"folder"}


def _nearest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}" if known else ""
