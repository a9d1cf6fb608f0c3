"""Teachers that are torch modules, made by a Python callable, with safetensors weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from softcache.errors import TeacherError
from softcache.teachers.files import file_sha256
from softcache.teachers.protocol import Fingerprint, Sequences
from softcache.transfer.python import load_callable, source_files

UNNAMED = "output"


class TorchTeacher:
    """A torch module in eval mode, without gradients.

    `model(**arguments)` makes the module, `weights` fills it (strictly), `preprocess(sample)` turns one sample, a
    dict of its columns, into the module's input tensor; inputs are stacked to [B, ...]. The module returns a tensor
    [B, ...], `Sequences`, or a mapping of them. `output_layer` is the dotted name of the linear module that makes the
    logits, for targets that store what it reads.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocess: Callable[[Mapping[str, Any]], Any],
        output_layer: str | None = None,
        device: str = "cpu",
    ) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._preprocess, self._output_layer = preprocess, output_layer
        self._device = torch.device(device)

    @classmethod
    def load(
        cls,
        *,
        model: str,
        arguments: Mapping[str, Any],
        weights: Path | None,
        preprocess: str,
        output_layer: str | None = None,
        device: str = "cpu",
    ) -> TorchTeacher:
        """Load a teacher. Raises TeacherError if its callables, weights or device do not work."""
        make, prepare = load_callable(model), load_callable(preprocess)
        try:
            module = make(**arguments)
        except Exception as e:
            raise TeacherError(f"{model}({_keywords(arguments)}) raised {type(e).__name__}: {e}") from e
        if not isinstance(module, torch.nn.Module):
            raise TeacherError(f"{model} returned {type(module).__name__}; expected a torch.nn.Module")
        if weights is not None:
            try:
                module.load_state_dict(load_file(weights))
            except (OSError, ValueError, SafetensorError, RuntimeError) as e:
                raise TeacherError(f"weights {weights} do not fit {model}({_keywords(arguments)}): {e}") from e
        try:
            return cls(module, prepare, output_layer, device)
        except (RuntimeError, AssertionError) as e:
            raise TeacherError(f"device {device!r} cannot be used: {e}") from e

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Return preprocessed samples as one tensor [B, ...]."""
        return torch.stack([torch.as_tensor(self._preprocess(sample)) for sample in samples])

    def predict(self, batch: torch.Tensor) -> dict[str, torch.Tensor | Sequences]:
        """Return the module's outputs, each [B, ...] or `Sequences`, on its device."""
        with torch.inference_mode():
            answer = self._model(batch.to(self._device))
        if isinstance(answer, torch.Tensor | Sequences):
            return {UNNAMED: answer}
        if isinstance(answer, Mapping):
            return dict(answer)
        raise TeacherError(
            f"the module returned {type(answer).__name__}; expected a tensor, Sequences, or a mapping of them"
        )

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and, where there is one, `bias` [C] of the last layer.

        Raises TeacherError if it is not named, or is no linear module.
        """
        try:
            layer = self._model.get_submodule(self._output_layer or "")
        except AttributeError as e:
            raise TeacherError(f"output_layer {self._output_layer!r}: {e}") from e
        if self._output_layer is None or not isinstance(layer, torch.nn.Linear):
            raise TeacherError(f"output_layer is {self._output_layer!r}; expected the name of a torch.nn.Linear")
        return {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})


def torch_fingerprint(
    *,
    model: str,
    arguments: Mapping[str, Any],
    weights: Path | None,
    preprocess: str,
    reads: Sequence[str] | None,
    code: Sequence[Path] | None,
    folder: Path,
) -> Fingerprint:
    """Return what decides the teacher's answers. `code` is by default the files of the modules of its two callables.

    Raises RecipeError or TeacherError if something of it cannot be read.
    """
    if code is None:
        code = [file for reference in (model, preprocess) for file in source_files(reference)]
    return Fingerprint(
        adapter="torch",
        config={"model": model, "arguments": dict(arguments), "preprocess": preprocess, "reads": reads and list(reads)},
        weights=() if weights is None else (file_sha256(weights),),
        sources=_source_hashes(code, folder),
    )


def _source_hashes(paths: Sequence[Path], folder: Path) -> dict[str, str]:
    """Return each file's hash by its name relative to `folder`; files outside go by their own name alone."""
    found: dict[str, str] = {}
    for path in sorted({p.resolve() for p in paths}):
        inside = path.is_relative_to(folder.resolve())
        name = path.relative_to(folder.resolve()).as_posix() if inside else path.name
        while name in found:
            name += "~"
        found[name] = file_sha256(path)
    return found


def _keywords(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in arguments.items())
