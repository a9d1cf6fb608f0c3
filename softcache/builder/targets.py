"""What a recipe's targets are: their codecs, declarations and fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from softcache.builder.augmenting import declare_augmentation
from softcache.codecs import Codec, make_codec
from softcache.errors import RecipeError, SoftcacheError, TeacherError, name_some
from softcache.kinds import KINDS
from softcache.recipe import Recipe, TaskRecipe
from softcache.store.checksums import fingerprint
from softcache.store.layout import ROWS
from softcache.tasks import TaskSpec
from softcache.teachers import Adapter, Answer, Description
from softcache.transfer.vocabulary import VOCABULARY, vocabulary_hash


@dataclass(frozen=True)
class BuildTarget:
    """A target to build: who answers, what, how it is stored, and its declaration (docs/format.md, section 3).

    `tables` are those of its tables that are known before the teacher runs, `libraries` those whose versions count,
    and `names_output` says that the recipe says which output it is.
    """

    name: str
    teacher: str
    task: TaskSpec
    codec: Codec
    format: str
    output: str
    declaration: dict[str, Any]
    label: str | None
    max_error: float | None
    tables: dict[str, pa.RecordBatch]
    libraries: tuple[str, ...]
    names_output: bool

    @property
    def has_tables(self) -> bool:
        """Whether its shards share tables."""
        return bool(self.tables) or self.codec.table_name is not None

    @cached_property
    def fingerprint(self) -> str:
        """The target fingerprint."""
        return fingerprint([self.name, self.declaration])


def build_targets(recipe: Recipe) -> list[BuildTarget]:
    """Return a recipe's targets. Raises RecipeError with all problems of their teachers and of what they answer."""
    problems: list[str] = []
    augmentation: dict[str, Any] | None = None
    try:
        augmentation = declare_augmentation(recipe)
    except SoftcacheError as e:
        problems.append(f"augmentation: {e}")
    described: dict[str, Description] = {}
    for name, teacher in recipe.teachers.items():
        try:
            described[name] = _describe(recipe, teacher)
        except SoftcacheError as e:
            problems.append(f"teachers.{name}: {e}")
    targets = []
    for target, (task, name) in recipe.targets().items():
        try:
            if name in described:
                targets.append(_target(recipe, target, task, name, described[name], augmentation))
        except SoftcacheError as e:
            problems.append(f"tasks.{task}: {e}")
    if problems:
        raise RecipeError(problems)
    return targets


def _describe(recipe: Recipe, teacher: Adapter) -> Description:
    """Return what a teacher says of itself. Raises SoftcacheError, whatever an adapter of the user's raises."""
    try:
        described = teacher.describe(recipe.folder)
    except SoftcacheError:
        raise
    except Exception as e:
        raise TeacherError(f"describe of {teacher.adapter} raised {type(e).__name__}: {e}") from e
    if not isinstance(described, Description):
        raise TeacherError(f"describe of {teacher.adapter} returned {type(described).__name__}, not a Description")
    try:
        fingerprint(described.fingerprint.to_json())
    except (TypeError, ValueError) as e:
        raise TeacherError(f"describe of {teacher.adapter}: its fingerprint is no JSON: {e}") from e
    return described


def rows_declaration(keep: pa.Schema, id_type: pa.DataType, augmentation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the declaration of `rows`: its id type, kept columns, and how samples are augmented."""
    declared = {"id": str(id_type), "keep": {field.name: str(field.type) for field in keep}}
    return declared if augmentation is None else declared | {"augmentation": augmentation}


def rows_fingerprint(declaration: dict[str, Any]) -> str:
    """Return the target fingerprint of `rows`."""
    return fingerprint([ROWS, declaration])


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return where two declarations differ, one `path: old -> new` line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for a, b in zip(old, new, strict=True) for d in differences(a, b, where)]
    return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _target(
    recipe: Recipe, name: str, key: str, teacher: str, described: Description, augmentation: dict[str, Any] | None
) -> BuildTarget:
    task, adapter = recipe.tasks[key], recipe.teachers[teacher]
    output = task.output or adapter.output_for(task.kind, task.store.codec) or key
    answer = described.answers.get(output, Answer())
    _check_answer(task, teacher, answer)
    has_tokens, vocabulary = KINDS[task.kind].has_tokens, described.vocabulary
    if has_tokens and vocabulary is None:
        raise RecipeError(f"{task.kind} takes a teacher with a tokenizer, such as adapter: causal_lm, not {teacher}")
    tables = {VOCABULARY: vocabulary} if has_tokens and vocabulary is not None else {}
    spec = task.spec(teacher, vocabulary_hash(tables[VOCABULARY]) if tables else None)
    codec = make_codec(task.store.codec, spec, task.store.settings())
    declaration = {
        "task": spec.to_json(),
        "teacher": described.fingerprint.to_json() | {"output": output} | adapter.declares(output, task.store.codec),
        "codec": codec.to_json(),
        "format": task.store.format,
    } | ({} if augmentation is None else {"augmentation": augmentation})
    return BuildTarget(
        name,
        teacher,
        spec,
        codec,
        task.store.format,
        output,
        declaration,
        task.label,
        task.store.max_error,
        tables,
        tuple(described.libraries),
        task.output is not None,
    )


def _check_answer(task: TaskRecipe, teacher: str, answer: Answer) -> None:
    """Compare a task with what its teacher declares of its answer. Raises RecipeError."""
    spec = task.spec(teacher, "" if KINDS[task.kind].has_tokens else None)
    said = {"kind": task.kind, "value_kind": task.value_kind, "shape": spec.shape, "classes": spec.shape[0]}
    declared = {"kind": answer.kind, "value_kind": answer.value_kind, "shape": answer.shape, "classes": answer.classes}
    problems = [
        f"{name} is {said[name]!r}; teacher {teacher} answers {value!r}"
        for name, value in declared.items()
        if value is not None and said[name] != value
    ]
    if not problems and task.labels is not None and answer.labels is not None:
        ours = task.labels if spec.known is None else [task.labels[i] for i in spec.known]
        if len(answer.labels) not in (len(ours), len(ours) + spec.dustbin):
            problems.append(f"{len(ours)} labels; teacher {teacher} has {len(answer.labels)}")
        else:
            problems += _other_labels(ours, answer.labels[: len(ours)], f"teacher {teacher}")
    if problems:
        raise RecipeError(problems)


def check_labels(recipe: Recipe, names: Callable[[str], Sequence[str] | None]) -> None:
    """Compare the labels of tasks with the names that the transfer set gives to a column's numbers.

    Raises RecipeError where there are others, or they are in another order.
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
    """Return how two orders of labels differ, nothing if they do not."""
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if not wrong:
        return []
    first = wrong[0]
    order = "in another order" if set(ours) == set(theirs) else "others"
    return [f"labels are {order} than those of {whose}: class {first} is {ours[first]!r} here, {theirs[first]!r} there"]
