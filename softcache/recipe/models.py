"""Models for the parts of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from softcache.codecs import make_codec
from softcache.errors import CodecError, TaskError
from softcache.kinds import KINDS
from softcache.settings import Arguments, Settings
from softcache.store.layout import is_split_name, is_target_name
from softcache.store.shards import FORMATS
from softcache.tasks import TaskSpec
from softcache.transfer.python import resolve


class PythonSource(Settings):
    """A function `module:function` that returns a `datasets.Dataset`, a pyarrow.Table or a mapping of columns."""

    type: Literal["python"]
    callable: str
    arguments: Arguments = Field(default_factory=dict)


class DatasetSource(Settings):
    """A `datasets` dataset, by path or name."""

    type: Literal["dataset"]
    path: str
    name: str | None = None
    split: str = "train"


class FilesSource(Settings):
    """Parquet, Arrow, JSON or CSV files; wildcards allowed."""

    type: Literal["files"]
    paths: list[str] = Field(min_length=1)


class ImagesSource(Settings):
    """The images below a folder, as columns `path`, `image` and `label`."""

    type: Literal["images"]
    folder: str


class BalanceRecipe(Settings):
    """The same number of samples for each value of column `by`: the first `each`, or as many as the rarest has."""

    by: str
    each: int | None = Field(default=None, ge=1)


class TransferSetRecipe(Settings):
    """The samples, in order, and the roles of their columns.

    `where` is an expression over the columns, as for `pandas.DataFrame.query`; samples for which it does not hold are
    left out. From the rest, `balance` takes the same number for every class.
    """

    source: Annotated[PythonSource | DatasetSource | FilesSource | ImagesSource, Field(discriminator="type")]
    id: str
    keep: list[str] = Field(default_factory=list)
    content: list[str] | None = None
    split: str = "train"
    where: str | None = None
    balance: BalanceRecipe | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not is_split_name(self.split):
            raise ValueError(f"split {self.split!r}: expected letters, digits, _ and single dots between them")
        for name, columns in (("keep", self.keep), ("content", self.content or [])):
            if len(set(columns)) != len(columns):
                raise ValueError(f"{name}: a column is listed twice")
        reserved = sorted({"sample_id", "view", "split", "content", "valid", "check", "parameters"} & set(self.keep))
        if reserved:
            raise ValueError(f"keep: {', '.join(reserved)} is reserved by the format; rename the column")
        return self


class AugmentationRecipe(Settings):
    """How many views of each sample teachers see, and the transform that makes them (`transfer.augmentation`).

    `transform` is `module:name`. A callable is called with `arguments`; a class is created with them. `column` is what
    the transform takes and returns; without it, that is a whole sample. `code` lists the source files that enter the
    fingerprint, by default that of its module.
    """

    transform: str
    arguments: Arguments = Field(default_factory=dict)
    column: str | None = None
    views: int = Field(default=1, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    code: list[str] | None = None


class StoreRecipe(Settings):
    """How a target is stored: the shards' format, the codec, and the codec's settings.

    A setting that is left out has the codec's default. A build stops if the error that it measures (docs/format.md,
    section 6) exceeds `max_error`.
    """

    format: str = "arrow"
    codec: str = "dense"
    max_error: float | None = Field(default=None, gt=0)
    dtype: str | None = None
    k: int | None = None
    nodes: int | None = None
    basis: int | None = None
    width: int | None = None
    companions: bool | None = None
    draws: int | None = None
    proposal: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return those of the codec's settings that are given."""
        return self.model_dump(exclude={"format", "codec", "max_error"}, exclude_none=True)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
        return self


class TaskRecipe(Settings):
    """What is predicted, by which teachers, and how the answers are stored.

    `size` is [rows, columns] of a map. `parts` lists other numbers to store that are optional for the kind, and `boxes`
    names the format of boxes. `knows` is for teachers that know only some of the classes: it maps a teacher to those
    classes, by name or number, in the order of its values. `dustbin` lists those of them that have one more value, for
    all other classes.
    """

    kind: str
    classes: int | None = None
    labels: list[str] | None = None
    size: list[int] | None = None
    shape: list[int] | None = None
    value_kind: str | None = None
    activation: str | None = None
    allow_masked: bool = False
    parts: list[str] = Field(default_factory=list)
    boxes: str | None = None
    knows: dict[str, list[int | str]] = Field(default_factory=dict)
    dustbin: list[str] = Field(default_factory=list)
    teachers: list[str] = Field(min_length=1)
    output: str | None = None
    label: str | None = None
    name: str | None = None
    store: StoreRecipe = StoreRecipe()

    def spec(self, teacher: str | None = None, tokenizer: str | None = None) -> TaskSpec:
        """Return the task as `teacher` answers it. For causal_lm, `tokenizer` is the hash of the tokenizer.

        Raises TaskError if the settings contradict each other.
        """
        if self.kind not in KINDS:
            raise TaskError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        parts = [p.name for p in KINDS[self.kind].parts if p.needed or p.name in self.parts]
        strange = [part for part in self.parts if part not in parts]
        known = None if teacher not in self.knows else self._numbers(self.knows[teacher])
        dustbin = teacher in self.dustbin
        return TaskSpec(
            kind=self.kind,
            shape=self._shape(known, dustbin),
            value_kind=self.value_kind,
            labels=None if self.labels is None else tuple(self.labels),
            allow_masked=self.allow_masked,
            tokenizer=tokenizer,
            activation=self.activation,
            parts=(*parts, *strange),
            boxes=self.boxes,
            space=None if known is None else self._classes(),
            known=known,
            dustbin=dustbin,
        )

    def _shape(self, known: tuple[int, ...] | None, dustbin: bool) -> tuple[int, ...]:
        traits = KINDS[self.kind]
        if not traits.activations:
            if self.shape is None:
                raise TaskError(f"{self.kind} needs shape, the dimensions of one row, such as [64]")
            if self.classes is not None or self.size is not None:
                raise TaskError(f"{self.kind} takes shape, not classes or size")
            return tuple(self.shape)
        if self.shape is not None:
            raise TaskError(f"{self.kind} takes classes or labels, not shape")
        if self.classes is None and self.labels is None:
            raise TaskError(f"{self.kind} needs classes (a number) or labels (their names)")
        is_map = traits.layout == "map"
        if is_map != (self.size is not None) or (self.size is not None and len(self.size) != 2):
            raise TaskError(f"{self.kind} {'needs size, [rows, columns] of its maps' if is_map else 'has no size'}")
        values = self._classes() if known is None else len(known) + dustbin
        return values, *(self.size or ())

    def _classes(self) -> int:
        return self.classes if self.classes is not None else len(self.labels or ())

    def _numbers(self, classes: list[int | str]) -> tuple[int, ...]:
        """Return classes, given by name or number, as numbers. Raises TaskError if a name is not among the labels."""
        strange = [c for c in classes if isinstance(c, str) and c not in (self.labels or ())]
        if strange:
            raise TaskError(f"knows: {', '.join(map(repr, strange))} is not among the labels")
        return tuple((self.labels or []).index(c) if isinstance(c, str) else c for c in classes)

    @model_validator(mode="after")
    def _check(self) -> Self:
        strange = sorted({*self.knows, *self.dustbin} - set(self.teachers))
        if strange:
            raise ValueError(f"knows, dustbin: {', '.join(strange)} is not among the task's teachers")
        for teacher in self.teachers:
            self._check_spec(teacher)
        if self.name is not None and not is_target_name(self.name):
            raise ValueError(f"name {self.name!r}: expected part@part of lower-case letters, digits and _.-")
        if self.name is not None and len(self.teachers) != 1:
            raise ValueError("name is for a task with one teacher; otherwise targets are called task@teacher")
        return self

    def _check_spec(self, teacher: str) -> None:
        try:
            has_tokens = self.kind in KINDS and KINDS[self.kind].has_tokens
            spec = self.spec(teacher, tokenizer="not known yet" if has_tokens else None)
            make_codec(self.store.codec, spec, self.store.settings())
        except TaskError as e:
            raise ValueError(str(e)) from e
        except CodecError as e:
            raise ValueError(f"store: {e}") from e
        if spec.is_list and self.store.format != "arrow":
            raise ValueError(f"store: {self.kind} targets can be stored only with format: arrow")


class BuildRecipe(Settings):
    """How the work is divided and run. None of it is part of a target's fingerprint."""

    batch_size: int = Field(default=64, ge=1)
    fragment_rows: int = Field(default=4096, ge=1)
    device: str = "cpu"
    on_bad_sample: Literal["stop", "skip"] = "stop"


class Recipe(Settings):
    """A whole recipe. `folder` is where its relative paths and modules are looked for.

    `teachers` holds each teacher's adapter settings. `load_recipe` reads them with the models that the adapters define.
    """

    transfer_set: TransferSetRecipe
    teachers: dict[str, Any] = Field(min_length=1)
    tasks: dict[str, TaskRecipe] = Field(min_length=1)
    augmentation: AugmentationRecipe | None = None
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

    @property
    def views(self) -> int:
        """How many views each sample has."""
        return 1 if self.augmentation is None else self.augmentation.views

    def path(self, text: str) -> Path:
        """Return a path of the recipe, relative to its folder or in a Python package (`transfer.python.resolve`).

        Raises RecipeError if there is no such package.
        """
        return resolve(self.folder, text)
