"""Recipes: YAML and KEY=VALUE overrides, read into frozen models. Every problem is reported at once.

A recipe names code that will be run: it is trusted. Nothing here runs it yet.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from softcache.codecs import CODECS
from softcache.codecs.dense import DTYPES
from softcache.errors import RecipeError, TaskError
from softcache.store.checksums import canonical_json
from softcache.store.layout import is_name_part, is_split_name, is_target_name
from softcache.store.shards import FORMATS
from softcache.tasks import KINDS, TaskSpec


def _finite(value: JsonValue) -> JsonValue:
    """Refuse NaN and infinities, which have no place in a fingerprint."""
    try:
        canonical_json(value)
    except ValueError as e:
        raise ValueError("NaN and infinities are not allowed in arguments") from e
    return value


Arguments = dict[str, Annotated[JsonValue, AfterValidator(_finite)]]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PythonSource(_Model):
    """A function `module:function` that returns a `datasets.Dataset`, a pyarrow.Table or a mapping of columns."""

    type: Literal["python"]
    callable: str
    arguments: Arguments = {}


class DatasetSource(_Model):
    """A `datasets` dataset, by path or name."""

    type: Literal["dataset"]
    path: str
    name: str | None = None
    split: str = "train"


class FilesSource(_Model):
    """Parquet, Arrow, JSON or CSV files; wildcards allowed."""

    type: Literal["files"]
    paths: list[str] = Field(min_length=1)


class ImagesSource(_Model):
    """The images below a folder: columns `path`, `image`, `label`."""

    type: Literal["images"]
    folder: str


class TransferSetRecipe(_Model):
    """The samples, in order, and which columns say what."""

    source: Annotated[PythonSource | DatasetSource | FilesSource | ImagesSource, Field(discriminator="type")]
    id: str
    keep: list[str] = []
    content: list[str] | None = None
    split: str = "train"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_split_name(self.split):
            raise ValueError(f"split {self.split!r}: expected letters, digits, _ and single dots between them")
        for name, columns in (("keep", self.keep), ("content", self.content or [])):
            if len(set(columns)) != len(columns):
                raise ValueError(f"{name}: a column is there twice")
        reserved = sorted({"sample_id", "view", "split", "content", "valid"} & set(self.keep))
        if reserved:
            raise ValueError(f"keep: {', '.join(reserved)} is a name of the format's own; rename the column")
        return self


class TeacherRecipe(_Model):
    """A torch module made by `model(**arguments)`, its weights, and its preprocessing of one sample."""

    adapter: Literal["torch"] = "torch"
    model: str
    arguments: Arguments = {}
    weights: str | None = None
    preprocess: str
    reads: list[str] | None = Field(default=None, min_length=1)
    code: list[str] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reads is not None and len(set(self.reads)) != len(self.reads):
            raise ValueError("reads: a column is there twice")
        return self


class StoreRecipe(_Model):
    """How a target is stored: the shards' format, the codec, and the codec's settings."""

    format: str = "arrow"
    codec: str = "dense"
    dtype: str = "float16"

    @model_validator(mode="after")
    def _check(self) -> Self:
        settings = (("format", FORMATS), ("codec", CODECS), ("dtype", tuple(DTYPES)))
        problems = [
            f"{key} is {getattr(self, key)!r}; expected one of {', '.join(known)}"
            for key, known in settings
            if getattr(self, key) not in known
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


class TaskRecipe(_Model):
    """What is predicted, by which teachers, and how the answers are stored."""

    kind: str
    classes: int | None = None
    labels: list[str] | None = None
    shape: list[int] | None = None
    value_kind: str | None = None
    allow_masked: bool = False
    teachers: list[str] = Field(min_length=1)
    output: str | None = None
    label: str | None = None
    name: str | None = None
    store: StoreRecipe = StoreRecipe()

    def spec(self) -> TaskSpec:
        """Return the task. Raises TaskError where it contradicts itself."""
        if self.kind not in KINDS:
            raise TaskError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.kind == "classification":
            if self.shape is not None:
                raise TaskError("classification takes classes or labels, not shape")
            if self.classes is None and self.labels is None:
                raise TaskError("classification needs classes (a number) or labels (their names)")
            shape: tuple[int, ...] = (self.classes if self.classes is not None else len(self.labels or ()),)
        else:
            if self.shape is None:
                raise TaskError(f"{self.kind} needs shape, the sizes of one row, such as [64]")
            if self.classes is not None:
                raise TaskError(f"{self.kind} has no classes")
            shape = tuple(self.shape)
        labels = None if self.labels is None else tuple(self.labels)
        return TaskSpec(self.kind, shape, self.value_kind, labels, self.allow_masked)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            self.spec()
        except TaskError as e:
            raise ValueError(str(e)) from e
        if self.name is not None and not is_target_name(self.name):
            raise ValueError(f"name {self.name!r}: expected part@part of lower-case letters, digits and _.-")
        if self.name is not None and len(self.teachers) != 1:
            raise ValueError("name is for a task with one teacher; otherwise targets are called task@teacher")
        return self


class BuildRecipe(_Model):
    """How the work is cut and run. None of it is part of a target's fingerprint."""

    batch_size: int = Field(default=64, ge=1)
    fragment_rows: int = Field(default=4096, ge=1)
    device: str = "cpu"
    on_bad_sample: Literal["stop", "skip"] = "stop"


class Recipe(_Model):
    """A whole recipe. `folder` is where its relative paths and modules are found."""

    transfer_set: TransferSetRecipe
    teachers: dict[str, TeacherRecipe] = Field(min_length=1)
    tasks: dict[str, TaskRecipe] = Field(min_length=1)
    build: BuildRecipe = BuildRecipe()
    folder: Path = Field(default=Path(), exclude=True)

    def targets(self) -> dict[str, tuple[str, str]]:
        """Return the task and teacher of each target, by target name."""
        named = (
            (task.name or f"{key}@{teacher}", key, teacher)
            for key, task in self.tasks.items()
            for teacher in task.teachers
        )
        return {target: (key, teacher) for target, key, teacher in named}

    def path(self, text: str) -> Path:
        """Return a path of the recipe: relative to its folder."""
        return self.folder / text


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides: `a.b=VALUE` sets (VALUE is YAML), `~a.b` removes.

    Raises RecipeError with every problem found, each with its path in the file, the value and what was expected.
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
    try:
        recipe = Recipe(
            **{str(key): value for key, value in data.items() if key != "folder"}, folder=file.resolve().parent
        )
    except ValidationError as e:
        problems += [line for error in e.errors() for line in _explain(error)]
    if "folder" in data:
        problems.append("folder: not a key of a recipe; paths are relative to the recipe's own folder")
    if problems:
        raise RecipeError([f"{file}: {problem}" for problem in problems])
    return recipe


def _check_names(data: dict[str, Any]) -> list[str]:
    """Return what is wrong between the parts of a recipe, whether or not each part is right by itself."""
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
    """Refuses a key that is there twice, of which YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _override(data: dict[str, Any], text: str) -> str | None:
    """Apply one override in place; return what is wrong with it, if anything."""
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


def _explain(error: Any) -> list[str]:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error":
        lines = str(error["ctx"]["error"]).split("\n")
        return [f"{where}: {line}" if where else line for line in lines]
    if error["type"] == "extra_forbidden":
        near = _nearest(str(error["loc"][-1]), _known_keys(error["loc"]))
        return [f"{where}: {_short(error['input'])}: unknown key{near}"]
    if error["type"] == "missing":
        return [f"{where}: missing"]
    return [f"{where}: {_short(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(location: tuple[Any, ...]) -> Collection[str]:
    """Return the keys that the model around an unknown key has."""
    sources: dict[str, type[_Model]] = {
        "python": PythonSource,
        "dataset": DatasetSource,
        "files": FilesSource,
        "images": ImagesSource,
    }
    match location:
        case ("transfer_set", "source", kind, _):
            model: type[_Model] = sources[kind]
        case ("transfer_set", _):
            model = TransferSetRecipe
        case ("teachers", _, _):
            model = TeacherRecipe
        case ("tasks", _, _):
            model = TaskRecipe
        case ("tasks", _, "store", _):
            model = StoreRecipe
        case ("build", _):
            model = BuildRecipe
        case _:
            model = Recipe
    return set(model.model_fields) - {"folder"}


def _nearest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}" if known else ""
