"""What a recipe's targets are: their codecs, declarations and fingerprints."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from softcache.builder.prepare.augmentation import declare_augmentation
from softcache.builder.prepare.task_checks import check_output
from softcache.codecs import Codec, make_codec
from softcache.errors import RecipeError, SoftcacheError, TeacherError, TransferSetError
from softcache.kinds import KINDS
from softcache.once import once
from softcache.recipe import Recipe, TaskRecipe
from softcache.store.checksums import fingerprint
from softcache.store.declarations import AugmentationDeclaration, RowsDeclaration, TargetDeclaration
from softcache.store.layout import ROWS
from softcache.tasks import TaskSpec
from softcache.teachers import Adapter, Description, OutputSpec
from softcache.transfer.vocabulary import VOCABULARY, vocabulary_hash


@dataclass(frozen=True, kw_only=True)
class BuildTarget:
    """A target to build.

    Attributes:
        name: `task@teacher`, or the recipe's own name for it.
        teacher: the name of the teacher that answers it.
        task: what it answers.
        codec: how the values are stored.
        format: the format of its shards, `arrow` or `zarr`.
        output: what the teacher calls the answer.
        names_output: whether the recipe names the output; otherwise a teacher's only output will do.
        declaration: what its fingerprint is made of (docs/format.md, section 3).
        label: the kept column with the right answers, if there is one.
        max_error: the largest error of the codec that the build accepts.
        tables: the tables that are known before the teacher runs, by name.
        libraries: the distributions whose versions are recorded.
    """

    name: str
    teacher: str
    task: TaskSpec
    codec: Codec
    format: str
    output: str
    names_output: bool
    declaration: TargetDeclaration
    label: str | None
    max_error: float | None
    tables: dict[str, pa.RecordBatch]
    libraries: tuple[str, ...]

    @property
    def has_tables(self) -> bool:
        """Whether its shards share tables."""
        return bool(self.tables) or self.codec.table_spec is not None

    @once
    def fingerprint(self) -> str:
        """The target fingerprint."""
        return fingerprint([self.name, self.declaration])


def build_targets(recipe: Recipe) -> list[BuildTarget]:
    """Return a recipe's targets. Raises RecipeError with every problem of its teachers, tasks and augmentation."""
    problems: list[str] = []
    augmentation: AugmentationDeclaration | None = None
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
    for target, (key, name) in recipe.targets().items():
        try:
            if name in described:
                targets.append(_target(recipe, target, key, name, described[name], augmentation))
        except SoftcacheError as e:
            problems.append(f"tasks.{key}: {e}")
    if problems:
        raise RecipeError(problems)
    return targets


def _describe(recipe: Recipe, teacher: Adapter) -> Description:
    """Return what a teacher says about itself. Raises SoftcacheError, whatever a user's own adapter raises."""
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
        raise TeacherError(f"describe of {teacher.adapter}: its fingerprint cannot be written as JSON: {e}") from e
    return described


def _target(
    recipe: Recipe,
    name: str,
    key: str,
    teacher: str,
    described: Description,
    augmentation: AugmentationDeclaration | None,
) -> BuildTarget:
    task, adapter = recipe.tasks[key], recipe.teachers[teacher]
    output = task.output or adapter.output_for(task.kind, task.store.codec) or key
    check_output(task, teacher, described.outputs.get(output, OutputSpec()))
    tables = _known_tables(task, teacher, described)
    spec = task.spec(teacher, vocabulary_hash(tables[VOCABULARY]) if tables else None)
    codec = make_codec(task.store.codec, spec, task.store.settings())
    declaration: TargetDeclaration = {
        "task": spec.to_json(),
        "teacher": described.fingerprint.to_json() | {"output": output} | adapter.declares(output, task.store.codec),
        "codec": codec.to_json(),
        "format": task.store.format,
    }
    if augmentation is not None:
        declaration["augmentation"] = augmentation
    return BuildTarget(
        name=name,
        teacher=teacher,
        task=spec,
        codec=codec,
        format=task.store.format,
        output=output,
        names_output=task.output is not None,
        declaration=declaration,
        label=task.label,
        max_error=task.store.max_error,
        tables=tables,
        libraries=tuple(described.libraries),
    )


def _known_tables(task: TaskRecipe, teacher: str, described: Description) -> dict[str, pa.RecordBatch]:
    """Return the tables of a target that are known before its teacher runs: a language model's vocabulary."""
    if not KINDS[task.kind].has_tokens:
        return {}
    if described.vocabulary is None:
        raise RecipeError(f"{task.kind} needs a teacher with a tokenizer, such as adapter: causal_lm, not {teacher}")
    return {VOCABULARY: described.vocabulary}


def rows_declaration(
    keep: pa.Schema, id_type: pa.DataType, augmentation: AugmentationDeclaration | None
) -> RowsDeclaration:
    """Return the declaration of `rows`: its id type, kept columns, and how samples are augmented.

    Raises TransferSetError for a kept column of a type that a shard cannot hold.
    """
    for field in keep:
        if "dictionary<" in str(field.type):
            raise TransferSetError(f"kept column {field.name!r} is {field.type}; cast it to the type of its values")
    declared: RowsDeclaration = {"id": str(id_type), "keep": {field.name: str(field.type) for field in keep}}
    if augmentation is not None:
        declared["augmentation"] = augmentation
    return declared


def rows_fingerprint(declaration: RowsDeclaration) -> str:
    """Return the target fingerprint of `rows`."""
    return fingerprint([ROWS, declaration])
