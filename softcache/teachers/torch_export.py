"""Teachers exported with torch.export: a `.pt2` file holds the graph and the weights, so no model code is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from softcache.errors import TeacherError
from softcache.teachers.adapter import Description
from softcache.teachers.files import file_sha256
from softcache.teachers.inputs import Inputs, Prepared, Preprocessing, on_device
from softcache.teachers.numerics import Numerics
from softcache.teachers.protocol import Fingerprint, NoOutputLayer
from softcache.transfer.python import resolve


class TorchExportAdapter(Preprocessing):
    """A program written by `torch.export.save`, exported in eval mode and with a dynamic batch size.

    It is called as it was exported: with the input, or with keyword arguments if `preprocess` returns a mapping.
    """

    adapter: Literal["torch_export"] = "torch_export"
    program: str
    numerics: Numerics = Numerics()

    def describe(self, folder: Path) -> Description:
        config = self.config() | {"numerics": self.numerics.to_json()}
        weights = (file_sha256(resolve(folder, self.program)),)
        return Description(Fingerprint("torch_export", config, weights, self.sources(folder)))

    def load(self, folder: Path, device: str) -> TorchExportTeacher:
        try:
            module = torch.export.load(resolve(folder, self.program)).module().to(device)
        except Exception as e:
            raise TeacherError(f"{self.program}: cannot be loaded as a torch.export program: {e}") from e
        return TorchExportTeacher(module, self.prepared(), device, self.numerics)


class TorchExportTeacher(NoOutputLayer):
    """An exported program, run without gradients."""

    def __init__(self, module: torch.nn.Module, prepared: Prepared, device: str, numerics: Numerics) -> None:
        self._module, self._prepared, self._numerics = module, prepared, numerics
        self._device = torch.device(device)

    def parameter_count(self) -> int:
        """Return how many parameters the program has."""
        return sum(p.numel() for p in self._module.parameters())

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return the preprocessed samples, stacked to [B, ...]."""
        return self._prepared.collate(samples)

    def predict(self, batch: Inputs) -> dict[str, Any]:
        """Return the program's outputs, on its device."""
        inputs = on_device(batch, self._device)
        with self._numerics.applied(self._device):
            answer = self._module(inputs) if isinstance(inputs, torch.Tensor) else self._module(**inputs)
            return self._numerics.kept(self._prepared.answers(answer), self._device)
