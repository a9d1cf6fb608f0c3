"""Teachers that are torch modules, made by a Python callable, with safetensors weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from softcache.errors import TeacherError
from softcache.settings import Arguments
from softcache.teachers.adapter import Adapter, Description
from softcache.teachers.files import file_sha256
from softcache.teachers.hooks import Hooks, hooked, module_named
from softcache.teachers.numerics import Numerics
from softcache.teachers.protocol import Fingerprint, Sequences
from softcache.transfer.python import load_callable, resolve, source_files

UNNAMED = "output"


class TorchAdapter(Adapter):
    """A torch module made by `model(**arguments)`, its weights, and its preprocessing of one sample.

    `weights` is a safetensors file that fills the module strictly. `preprocess(sample)` turns one sample, a dict of its
    columns, into the module's input tensor; inputs are stacked to [B, ...]. The module returns a tensor [B, ...],
    `Sequences`, or a mapping of them. `reads` are the columns of a sample, `code` the source files that count, by
    default those of the two callables' modules. `output_layer` is the dotted name of the linear module that makes the
    logits, for targets that store what it reads; `hooks` make outputs of other modules outputs of the teacher.
    """

    adapter: Literal["torch"] = "torch"
    model: str
    arguments: Arguments = Field(default_factory=dict)
    weights: str | None = None
    preprocess: str
    output_layer: str | None = None
    reads: list[str] | None = Field(default=None, min_length=1)
    code: list[str] | None = None
    hooks: Hooks = Field(default_factory=dict)
    numerics: Numerics = Numerics()

    @property
    def columns(self) -> list[str] | None:
        return self.reads

    @property
    def layer(self) -> str | None:
        return self.output_layer

    def describe(self, folder: Path) -> Description:
        code = None if self.code is None else [resolve(folder, c) for c in self.code]
        if code is None:
            code = [file for reference in (self.model, self.preprocess) for file in source_files(reference)]
        config = {
            "model": self.model,
            "arguments": dict(self.arguments),
            "preprocess": self.preprocess,
            "reads": self.reads,
            "hooks": {name: hook.model_dump() for name, hook in self.hooks.items()},
            "numerics": self.numerics.to_json(),
        }
        weights = () if self.weights is None else (file_sha256(resolve(folder, self.weights)),)
        return Description(Fingerprint("torch", config, weights, source_hashes(code, folder)))

    def load(self, folder: Path, device: str) -> TorchTeacher:
        make, prepare = load_callable(self.model), load_callable(self.preprocess)
        made = f"{self.model}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"
        try:
            module = make(**self.arguments)
        except Exception as e:
            raise TeacherError(f"{made} raised {type(e).__name__}: {e}") from e
        if not isinstance(module, torch.nn.Module):
            raise TeacherError(f"{self.model} returned {type(module).__name__}; expected a torch.nn.Module")
        if self.weights is not None:
            try:
                module.load_state_dict(load_file(resolve(folder, self.weights)))
            except (OSError, ValueError, SafetensorError, RuntimeError) as e:
                raise TeacherError(f"weights {self.weights} do not fit {made}: {e}") from e
        try:
            module = module.to(device).eval().requires_grad_(False)
        except (RuntimeError, AssertionError) as e:
            raise TeacherError(f"device {device!r} cannot be used: {e}") from e
        return TorchTeacher(module, prepare, device, self.output_layer, self.hooks, self.numerics)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reads is not None and len(set(self.reads)) != len(self.reads):
            raise ValueError("reads: a column is there twice")
        return self


class TorchTeacher:
    """A torch module in eval mode, without gradients."""

    def __init__(
        self,
        module: torch.nn.Module,
        preprocess: Callable[[Mapping[str, Any]], Any],
        device: str,
        output_layer: str | None,
        hooks: Hooks,
        numerics: Numerics,
    ) -> None:
        self._module, self._preprocess, self._device = module, preprocess, torch.device(device)
        self._output_layer, self._hooks, self._numerics = output_layer, hooks, numerics

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Return preprocessed samples as one tensor [B, ...]."""
        return torch.stack([torch.as_tensor(self._preprocess(sample)) for sample in samples])

    def predict(self, batch: torch.Tensor) -> dict[str, Any]:
        """Return the module's outputs, each [B, ...] or `Sequences`, on its device."""
        with self._numerics.applied(self._device), hooked(self._module, self._hooks, None) as further:
            answer = self._module(batch.to(self._device))
        return named_outputs(answer) | further

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and, where there is one, `bias` [C] of the last layer.

        Raises TeacherError if it is not named, or is no linear module.
        """
        layer = None if self._output_layer is None else module_named(self._module, self._output_layer)
        if not isinstance(layer, torch.nn.Linear):
            raise TeacherError(f"output_layer is {self._output_layer!r}; expected the name of a torch.nn.Linear")
        return {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})


def named_outputs(answer: Any) -> dict[str, Any]:
    """Return what a module answers as outputs by name. Raises TeacherError for what is neither."""
    if isinstance(answer, torch.Tensor | Sequences):
        return {UNNAMED: answer}
    if isinstance(answer, Mapping):
        return dict(answer)
    raise TeacherError(
        f"the module returned {type(answer).__name__}; expected a tensor, Sequences, or a mapping of them"
    )


def source_hashes(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return each file's hash by its name relative to `folder`; files outside go by their own name alone."""
    found: dict[str, str] = {}
    for path in sorted({p.resolve() for p in paths}):
        inside = path.is_relative_to(folder.resolve())
        name = path.relative_to(folder.resolve()).as_posix() if inside else path.name
        while name in found:
            name += "~"
        found[name] = file_sha256(path)
    return found
