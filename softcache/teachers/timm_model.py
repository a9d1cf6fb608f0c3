"""Teachers from the timm library: image models by name, with the preprocessing of their data config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from softcache.errors import MissingExtra, TeacherError
from softcache.kinds import KINDS
from softcache.teachers.adapter import Adapter, Description
from softcache.teachers.files import file_sha256
from softcache.teachers.hooks import Hooks, declared_hook, hooked, with_hooks
from softcache.teachers.numerics import Numerics
from softcache.teachers.protocol import Fingerprint, NoOutputLayer
from softcache.transfer.python import resolve


class TimmAdapter(Adapter):
    """A model of the timm library. It reads the image in `column`, and its output is called `logits`.

    `weights` is a file. Without it, timm downloads the pretrained weights of that name; the model's name with its tag
    then identifies them in the fingerprint.
    """

    adapter: Literal["timm"] = "timm"
    model: str
    weights: str | None = None
    column: str = "image"
    classes: int | None = Field(default=None, ge=1)
    hooks: Hooks = Field(default_factory=dict)
    numerics: Numerics = Numerics()

    @property
    def columns(self) -> list[str]:
        return [self.column]

    def describe(self, folder: Path) -> Description:
        timm = _timm()
        weights = () if self.weights is None else (file_sha256(resolve(folder, self.weights)),)
        pretrained = timm.get_pretrained_cfg(self.model)
        if pretrained is None and self.weights is None:
            raise TeacherError(f"{self.model}: timm has no pretrained weights for it; set weights to a file")
        config = {
            "model": self.model,
            "column": self.column,
            "classes": self.classes,
            "pretrained": None if pretrained is None else {k: str(v) for k, v in pretrained.to_dict().items()},
            "numerics": self.numerics.to_json(),
        }
        return Description(Fingerprint("timm", config, weights), libraries=("timm",))

    def load(self, folder: Path, device: str) -> TimmTeacher:
        timm = _timm()
        options: dict[str, Any] = {} if self.classes is None else {"num_classes": self.classes}
        if self.weights is not None:
            options["checkpoint_path"] = str(resolve(folder, self.weights))
        try:
            model = timm.create_model(self.model, pretrained=self.weights is None, **options)
            transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        except Exception as e:
            raise TeacherError(f"{self.model}: timm cannot create it: {e}") from e
        return TimmTeacher(model.to(device).eval().requires_grad_(False), transform, self, device)

    def declares(self, output: str, codec: str) -> dict[str, Any]:
        return declared_hook(self.hooks, output)

    def output_for(self, kind: str, codec: str) -> str | None:
        return None if KINDS[kind].is_intermediate else "logits"


class TimmTeacher(NoOutputLayer):
    """An image model, run in eval mode and without gradients."""

    def __init__(self, model: torch.nn.Module, transform: Any, settings: TimmAdapter, device: str) -> None:
        self._model, self._transform, self._settings = model, transform, settings
        self._device = torch.device(device)

    def parameter_count(self) -> int:
        """Return how many parameters the model has."""
        return sum(p.numel() for p in self._model.parameters())

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Return the images, preprocessed as the model's data config says, [B, 3, H, W]."""
        return torch.stack([self._transform(sample[self._settings.column].convert("RGB")) for sample in samples])

    def predict(self, batch: torch.Tensor) -> dict[str, Any]:
        """Return `logits` and the outputs that the hooks collect."""
        with self._settings.numerics.applied(self._device), hooked(self._model, self._settings.hooks, None) as further:
            logits = self._model(batch.to(self._device))
        return with_hooks({"logits": logits}, further)


def _timm() -> Any:
    try:
        import timm
    except ImportError as e:
        raise MissingExtra("this teacher needs timm: pip install 'softcache[timm]'") from e
    return timm
