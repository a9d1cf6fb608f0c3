"""From samples to a model's inputs: the user's preprocessing, then stacking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from softcache.errors import TeacherError
from softcache.teachers.adapter import Adapter
from softcache.teachers.files import file_sha256
from softcache.teachers.protocol import Sequences
from softcache.transfer.python import load_callable, resolve, source_files

Inputs = torch.Tensor | dict[str, torch.Tensor]
UNNAMED = "output"


class Preprocessing(Adapter):
    """Settings of adapters whose samples are prepared by the user's code.

    `preprocess(sample)` turns one sample, a dict of its columns, into an array or tensor, or into a mapping of them by
    the model's input names. Inputs are then stacked to [B, ...]. `postprocess(outputs)`, if given, turns the outputs of
    a batch, a dict, into the answers. `reads` lists the columns that the code reads. `code` lists the source files that
    enter the fingerprint, by default those of the callables' modules.
    """

    preprocess: str
    postprocess: str | None = None
    reads: list[str] | None = Field(default=None, min_length=1)
    code: list[str] | None = None

    @property
    def columns(self) -> list[str] | None:
        return self.reads

    def config(self) -> dict[str, Any]:
        """Return those of these settings that decide the answers."""
        further = {} if self.postprocess is None else {"postprocess": self.postprocess}
        return {"preprocess": self.preprocess, "reads": self.reads} | further

    def sources(self, folder: Path, *callables: str) -> dict[str, str]:
        """Return the SHA-256 of each source file that enters the fingerprint, by name.

        Raises RecipeError or TeacherError if a file cannot be found or read.
        """
        if self.code is not None:
            return source_hashes([resolve(folder, c) for c in self.code], folder)
        named = [*callables, self.preprocess, *([] if self.postprocess is None else [self.postprocess])]
        return source_hashes([file for reference in named for file in source_files(reference)], folder)

    def prepared(self) -> Prepared:
        """Import the callables. Raises RecipeError if one cannot be imported."""
        return Prepared(
            load_callable(self.preprocess), None if self.postprocess is None else load_callable(self.postprocess)
        )

    @model_validator(mode="after")
    def _check_reads(self) -> Self:
        if self.reads is not None and len(set(self.reads)) != len(self.reads):
            raise ValueError("reads: a column is listed twice")
        return self


class Prepared:
    """The user's preprocessing and postprocessing, imported."""

    def __init__(self, preprocess: Callable[..., Any], postprocess: Callable[..., Any] | None) -> None:
        self._preprocess, self._postprocess = preprocess, postprocess

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return the samples' inputs, stacked to [B, ...]."""
        made = [self._preprocess(sample) for sample in samples]
        if not isinstance(made[0], Mapping):
            return torch.stack([_tensor(inputs) for inputs in made])
        return {str(name): torch.stack([_tensor(inputs[name]) for inputs in made]) for name in made[0]}

    def answers(self, outputs: Any) -> dict[str, Any]:
        """Return the answers by name, postprocessed. Raises TeacherError for an unexpected type."""
        found = named_outputs(outputs)
        return found if self._postprocess is None else named_outputs(self._postprocess(found))


def _tensor(given: Any) -> torch.Tensor:
    """Return an input as a tensor. A read-only array is copied, because torch would warn about sharing its memory."""
    return torch.as_tensor(given.copy() if isinstance(given, np.ndarray) and not given.flags.writeable else given)


def named_outputs(answer: Any) -> dict[str, Any]:
    """Return a model's outputs by name. Raises TeacherError unless they are a tensor, `Sequences` or a mapping."""
    if isinstance(answer, torch.Tensor | Sequences):
        return {UNNAMED: answer}
    if isinstance(answer, Mapping):
        return dict(answer)
    raise TeacherError(
        f"the module returned {type(answer).__name__}; expected a tensor, Sequences, or a mapping of them"
    )


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return the inputs, moved to a device."""
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def source_hashes(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return each file's SHA-256 by its path relative to `folder`, or by its bare name if it lies outside."""
    found: dict[str, str] = {}
    for path in sorted({p.resolve() for p in paths}):
        inside = path.is_relative_to(folder.resolve())
        name = path.relative_to(folder.resolve()).as_posix() if inside else path.name
        while name in found:
            name += "~"
        found[name] = file_sha256(path)
    return found
