"""Teachers that are torch modules, created by a Python callable and filled with weights from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file

from softcache.errors import TeacherError
from softcache.settings import Arguments
from softcache.teachers.adapter import Description
from softcache.teachers.files import file_sha256
from softcache.teachers.hooks import Hooks, declared_hook, hooked, module_named, with_hooks
from softcache.teachers.inputs import Inputs, Prepared, Preprocessing, on_device
from softcache.teachers.numerics import Numerics
from softcache.teachers.protocol import Fingerprint
from softcache.transfer.python import load_callable, resolve


class TorchAdapter(Preprocessing):
    """A torch module created by `model(**arguments)`.

    `weights` is a safetensors file, or a state dict written by `torch.save`, from which only tensors are loaded. Its
    names must match the module's exactly. The module is called with the input, or with keyword arguments if
    `preprocess` returns a mapping. It returns a tensor [B, ...], `Sequences`, or a mapping of them. `output_layer` is
    the dotted name of the linear module that computes the logits; targets that store that module's input need it.
    `hooks` turn outputs of other modules into outputs of the teacher.
    """

    adapter: Literal["torch"] = "torch"
    model: str
    arguments: Arguments = Field(default_factory=dict)
    weights: str | None = None
    output_layer: str | None = None
    hooks: Hooks = Field(default_factory=dict)
    numerics: Numerics = Numerics()

    def describe(self, folder: Path) -> Description:
        sources = self.sources(folder, self.model)
        config = self.config() | {
            "model": self.model,
            "arguments": dict(self.arguments),
            "numerics": self.numerics.to_json(),
        }
        weights = () if self.weights is None else (file_sha256(resolve(folder, self.weights)),)
        return Description(Fingerprint("torch", config, weights, sources))

    def declares(self, output: str, codec: str) -> dict[str, Any]:
        layer = {"output_layer": self.output_layer} if codec == "hidden" and self.output_layer else {}
        return layer | declared_hook(self.hooks, output)

    def load(self, folder: Path, device: str) -> TorchTeacher:
        make, prepared = load_callable(self.model), self.prepared()
        made = f"{self.model}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"
        try:
            module = make(**self.arguments)
        except Exception as e:
            raise TeacherError(f"{made} raised {type(e).__name__}: {e}") from e
        if not isinstance(module, torch.nn.Module):
            raise TeacherError(f"{self.model} returned {type(module).__name__}; expected a torch.nn.Module")
        if self.weights is not None:
            try:
                module.load_state_dict(_state_dict(resolve(folder, self.weights)))
            except (OSError, ValueError, SafetensorError, RuntimeError, UnpicklingError, AttributeError) as e:
                raise TeacherError(f"weights {self.weights} do not fit {made}: {e}") from e
        try:
            module = module.to(device).eval().requires_grad_(False)
        except (RuntimeError, AssertionError) as e:
            raise TeacherError(f"device {device!r} cannot be used: {e}") from e
        return TorchTeacher(module, prepared, device, self.output_layer, self.hooks, self.numerics)


class TorchTeacher:
    """A torch module, run in eval mode and without gradients."""

    def __init__(
        self,
        module: torch.nn.Module,
        prepared: Prepared,
        device: str,
        output_layer: str | None,
        hooks: Hooks,
        numerics: Numerics,
    ) -> None:
        self._module, self._prepared, self._device = module, prepared, torch.device(device)
        self._output_layer, self._hooks, self._numerics = output_layer, hooks, numerics

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return the preprocessed samples, stacked to [B, ...]."""
        return self._prepared.collate(samples)

    def predict(self, batch: Inputs) -> dict[str, Any]:
        """Return the module's outputs, each [B, ...] or `Sequences`, on its device."""
        inputs = on_device(batch, self._device)
        with self._numerics.applied(self._device), hooked(self._module, self._hooks, None) as further:
            answer = self._module(inputs) if isinstance(inputs, torch.Tensor) else self._module(**inputs)
            answers = self._numerics.kept(self._prepared.answers(answer), self._device)
        return with_hooks(answers, further)

    def parameter_count(self) -> int:
        """Return how many parameters the module has."""
        return sum(p.numel() for p in self._module.parameters())

    def output_layer(self) -> dict[str, torch.Tensor]:
        """Return `weight` [C, d] and, if it has one, `bias` [C] of the last layer.

        Raises TeacherError if the recipe does not name the layer, or if it is not a linear module.
        """
        layer = None if self._output_layer is None else module_named(self._module, self._output_layer)
        if not isinstance(layer, torch.nn.Linear):
            raise TeacherError(f"output_layer is {self._output_layer!r}; expected the name of a torch.nn.Linear")
        return {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})


def _state_dict(path: Path) -> Any:
    """Return a module's weights, by parameter name."""
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
