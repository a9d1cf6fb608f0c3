"""The models of a recipe's parts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from softcache.codecs import make_codec
from softcache.errors import CodecError, RecipeError, TaskError
from softcache.store.checksums import canonical_json
from softcache.store.layout import is_split_name, is_target_name
from softcache.store.shards import FORMATS
from softcache.tasks import KINDS, TaskSpec

PACKAGE = "package:"


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


class TorchRecipe(_Model):
    """A torch module made by `model(**arguments)`, its weights, and its preprocessing of one sample."""

    adapter: Literal["torch"] = "torch"
    model: str
    arguments: Arguments = {}
    weights: str | None = None
    preprocess: str
    output_layer: str | None = None
    reads: list[str] | None = Field(default=None, min_length=1)
    code: list[str] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reads is not None and len(set(self.reads)) != len(self.reads):
            raise ValueError("reads: a column is there twice")
        return self


class CausalLMRecipe(_Model):
    """A causal language model of the transformers library, and the column of text or token ids that it reads.

    `model` is a folder, `package:NAME` for the folder of an installed Python package, or a name on the Hub.
    """

    adapter: Literal["causal_lm"]
    model: str
    gguf: str | None = None
    revision: str | None = None
    text: str | None = None
    input_ids: str | None = None
    loss_mask: str | None = None
    max_length: int | None = Field(default=None, ge=2)
    add_special_tokens: bool = True
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    tokens_at_once: int = Field(default=2048, ge=1)

    @property
    def reads(self) -> list[str]:
        """The columns that the teacher reads."""
        return [column for column in (self.text, self.input_ids, self.loss_mask) if column is not None]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.text is None) == (self.input_ids is None):
            raise ValueError("give text or input_ids, the column to read")
        if self.loss_mask is not None and self.input_ids is None:
            raise ValueError("loss_mask has an entry for each token, so it needs input_ids")
        return self


def _adapter(teacher: Any) -> str:
    given = teacher.get("adapter", "torch") if isinstance(teacher, dict) else getattr(teacher, "adapter", "torch")
    return str(given)


TeacherRecipe = Annotated[
    Annotated[TorchRecipe, Tag("torch")] | Annotated[CausalLMRecipe, Tag("causal_lm")], Discriminator(_adapter)
]


class StoreRecipe(_Model):
    """How a target is stored: the shards' format, the codec, and the codec's settings, each by default the codec's own.

    A build stops where the error that it measures (docs/format.md, section 6) exceeds `max_error`.
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
        """Return the codec's settings that are given."""
        return self.model_dump(exclude={"format", "codec", "max_error"}, exclude_none=True)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
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

    def spec(self, tokenizer: str | None = None) -> TaskSpec:
        """Return the task, of causal_lm with its tokenizer's hash. Raises TaskError where it contradicts itself."""
        if self.kind not in KINDS:
            raise TaskError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if self.kind != "features":
            if self.shape is not None:
                raise TaskError(f"{self.kind} takes classes or labels, not shape")
            if self.classes is None and self.labels is None:
                raise TaskError(f"{self.kind} needs classes (a number) or labels (their names)")
            shape: tuple[int, ...] = (self.classes if self.classes is not None else len(self.labels or ()),)
        else:
            if self.shape is None:
                raise TaskError(f"{self.kind} needs shape, the sizes of one row, such as [64]")
            if self.classes is not None:
                raise TaskError(f"{self.kind} has no classes")
            shape = tuple(self.shape)
        labels = None if self.labels is None else tuple(self.labels)
        return TaskSpec(self.kind, shape, self.value_kind, labels, self.allow_masked, tokenizer)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            spec = self.spec(tokenizer="not known yet" if self.kind == "causal_lm" else None)
            make_codec(self.store.codec, spec, self.store.settings())
        except TaskError as e:
            raise ValueError(str(e)) from e
        except CodecError as e:
            raise ValueError(f"store: {e}") from e
        if spec.is_sequence and self.store.format != "arrow":
            raise ValueError(f"store: {self.kind} targets are stored in Arrow shards alone")
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
        """Return a path of the recipe: relative to its folder, or `package:NAME`, the folder of a Python package.

        Raises RecipeError if there is no such package.
        """
        if not text.startswith(PACKAGE):
            return self.folder / text
        try:
            found = find_spec(text.removeprefix(PACKAGE))
        except (ImportError, ValueError):
            found = None
        if found is None or not found.submodule_search_locations:
            raise RecipeError(f"{text}: no package of that name is installed")
        return Path(found.submodule_search_locations[0])
