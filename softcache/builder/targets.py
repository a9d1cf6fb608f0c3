"""What a recipe's targets are: their codecs, declarations and fingerprints."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import softcache
from softcache.codecs import Codec, HiddenCodec, make_codec
from softcache.errors import RecipeError, SoftcacheError
from softcache.recipe import CausalLMRecipe, Recipe, TaskRecipe, TeacherRecipe, TorchRecipe
from softcache.store.checksums import fingerprint
from softcache.store.layout import ROWS
from softcache.tasks import TaskSpec
from softcache.teachers import Fingerprint, Teacher, TorchTeacher
from softcache.teachers.causal_lm import (
    CausalLMInputs,
    CausalLMSource,
    CausalLMTeacher,
    causal_lm_fingerprint,
    causal_lm_vocabulary,
)
from softcache.teachers.torch_module import torch_fingerprint
from softcache.transfer.vocabulary import VOCABULARY, vocabulary_hash, vocabulary_size


@dataclass(frozen=True)
class BuildTarget:
    """A target to build: who answers, what, how it is stored, and its declaration (docs/format.md, section 3).

    `tables` are those of its tables that are known before the teacher runs.
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
    identities: dict[str, Fingerprint] = {}
    for name, teacher in recipe.teachers.items():
        try:
            identities[name] = teacher_fingerprint(recipe, teacher)
        except SoftcacheError as e:
            problems.append(f"teachers.{name}: {e}")
    targets = []
    for target, (task, name) in recipe.targets().items():
        try:
            if name in identities:
                targets.append(_target(recipe, target, task, name, identities[name]))
        except SoftcacheError as e:
            problems.append(f"tasks.{task}: {e}")
    if problems:
        raise RecipeError(problems)
    return targets


def rows_declaration(keep: pa.Schema, id_type: pa.DataType) -> dict[str, Any]:
    """Return the declaration of `rows`: its id type and kept columns."""
    return {"id": str(id_type), "keep": {field.name: str(field.type) for field in keep}}


def rows_fingerprint(declaration: dict[str, Any]) -> str:
    """Return the target fingerprint of `rows`."""
    return fingerprint([ROWS, declaration])


def teacher_fingerprint(recipe: Recipe, teacher: TeacherRecipe) -> Fingerprint:
    """Return what decides a teacher's answers. Raises RecipeError or TeacherError if something of it cannot be read."""
    if isinstance(teacher, CausalLMRecipe):
        return causal_lm_fingerprint(_source(recipe, teacher), _inputs(teacher), dtype=teacher.dtype)
    return torch_fingerprint(
        model=teacher.model,
        arguments=teacher.arguments,
        weights=_optional(recipe, teacher.weights),
        preprocess=teacher.preprocess,
        reads=teacher.reads,
        code=None if teacher.code is None else [recipe.path(c) for c in teacher.code],
        folder=recipe.folder,
    )


def load_teacher(recipe: Recipe, name: str) -> Teacher:
    """Load a teacher on the recipe's device. Raises TeacherError or RecipeError."""
    teacher, device = recipe.teachers[name], recipe.build.device
    if isinstance(teacher, CausalLMRecipe):
        return CausalLMTeacher.load(
            _source(recipe, teacher),
            _inputs(teacher),
            dtype=teacher.dtype,
            tokens_at_once=teacher.tokens_at_once,
            device=device,
        )
    return TorchTeacher.load(
        model=teacher.model,
        arguments=teacher.arguments,
        weights=_optional(recipe, teacher.weights),
        preprocess=teacher.preprocess,
        output_layer=teacher.output_layer,
        device=device,
    )


def _source(recipe: Recipe, teacher: CausalLMRecipe) -> CausalLMSource:
    local = recipe.path(teacher.model)
    return CausalLMSource(str(local) if local.is_dir() else teacher.model, teacher.gguf, teacher.revision)


def _inputs(teacher: CausalLMRecipe) -> CausalLMInputs:
    return CausalLMInputs(
        teacher.text, teacher.input_ids, teacher.loss_mask, teacher.max_length, teacher.add_special_tokens
    )


def _tables(
    recipe: Recipe, task: TaskRecipe, teacher: TeacherRecipe, identity: Fingerprint
) -> dict[str, pa.RecordBatch]:
    """Return the tables that are known before the teacher runs. Raises RecipeError where task and teacher disagree."""
    if task.kind != "causal_lm":
        return {}
    if not isinstance(teacher, CausalLMRecipe):
        raise RecipeError("causal_lm tasks take teachers with adapter: causal_lm, whose tokenizer is known")
    if task.value_kind != "logits":
        raise RecipeError(f"value_kind is {task.value_kind!r}; teachers with adapter: causal_lm answer logits")
    table = causal_lm_vocabulary(_source(recipe, teacher), fingerprint(identity.to_json()))
    if (size := vocabulary_size(table)) != task.spec("").shape[0]:
        raise RecipeError(f"classes is {task.spec('').shape[0]:,}; the teacher's tokenizer has {size:,}")
    return {VOCABULARY: table}


def versions(target: BuildTarget | None = None) -> dict[str, str]:
    """Return the versions of the libraries that take part in a teacher's answers, or in writing `rows`."""
    adapter = None if target is None else target.declaration["teacher"]["adapter"]
    further = ("transformers", "tokenizers") if adapter == "causal_lm" else ()
    return {
        "softcache": softcache.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    } | {library: version(library) for library in further}


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


def _optional(recipe: Recipe, path: str | None) -> Path | None:
    return None if path is None else recipe.path(path)


def _target(recipe: Recipe, name: str, key: str, teacher: str, identity: Fingerprint) -> BuildTarget:
    task = recipe.tasks[key]
    tables = _tables(recipe, task, recipe.teachers[teacher], identity)
    spec = task.spec(vocabulary_hash(tables[VOCABULARY]) if VOCABULARY in tables else None)
    codec = make_codec(task.store.codec, spec, task.store.settings())
    output = task.output or _default_output(spec, codec) or key
    described = recipe.teachers[teacher]
    layer = described.output_layer if isinstance(described, TorchRecipe) and isinstance(codec, HiddenCodec) else None
    declaration = {
        "task": spec.to_json(),
        "teacher": identity.to_json() | {"output": output} | ({} if layer is None else {"output_layer": layer}),
        "codec": codec.to_json(),
        "format": task.store.format,
    }
    return BuildTarget(
        name, teacher, spec, codec, task.store.format, output, declaration, task.label, task.store.max_error, tables
    )


def _default_output(task: TaskSpec, codec: Codec) -> str | None:
    """Return what a language model's answer to a target is called, None for other teachers."""
    if task.kind != "causal_lm":
        return None
    return "hidden" if isinstance(codec, HiddenCodec) else "logits"
