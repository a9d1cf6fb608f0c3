"""Teachers from the sentence-transformers library, which embed sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from softcache.errors import MissingExtra
from softcache.teachers.adapter import Adapter, Description, OutputSpec
from softcache.teachers.numerics import Numerics
from softcache.teachers.pretrained import ModelSource, loading, model_files, model_source
from softcache.teachers.protocol import Fingerprint, NoOutputLayer


class SentenceTransformersAdapter(Adapter):
    """A model of the sentence-transformers library. It reads the text in `column`; its output is called `embedding`.

    `model` is a folder, which may be in a Python package (`package:NAME`), or a name on the Hub. With `normalize`,
    embeddings have length 1.
    """

    adapter: Literal["sentence_transformers"] = "sentence_transformers"
    model: str
    revision: str | None = None
    column: str
    normalize: bool = False
    numerics: Numerics = Numerics()

    @property
    def columns(self) -> list[str]:
        return [self.column]

    def describe(self, folder: Path) -> Description:
        source = model_source(folder, self.model, revision=self.revision)
        # Pooling and similar modules have their own folders.
        weights, files = model_files(source, nested=True)
        config = {"normalize": self.normalize, "column": self.column, "numerics": self.numerics.to_json()}
        fingerprint = Fingerprint("sentence_transformers", config, weights, files)
        answers = {"embedding": OutputSpec("features")}
        return Description(fingerprint, answers, libraries=("sentence-transformers", "transformers"))

    def load(self, folder: Path, device: str) -> SentenceTransformersTeacher:
        source = model_source(folder, self.model, revision=self.revision)
        return SentenceTransformersTeacher(_model(source, device), self, device)

    def output_for(self, kind: str, codec: str) -> str | None:
        return "embedding"


class SentenceTransformersTeacher(NoOutputLayer):
    """A model that embeds sentences."""

    def __init__(self, model: Any, settings: SentenceTransformersAdapter, device: str) -> None:
        self._model, self._settings, self._device = model.eval().requires_grad_(False), settings, torch.device(device)

    def parameter_count(self) -> int:
        """Return how many parameters the model has."""
        return sum(p.numel() for p in self._model.parameters())

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the samples' texts."""
        texts = [sample[self._settings.column] for sample in samples]
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"column {self._settings.column!r} is {type(text).__name__}; expected text")
        return texts

    def predict(self, batch: list[str]) -> dict[str, torch.Tensor]:
        """Return `embedding`, [B, d]."""
        with self._settings.numerics.applied(self._device):
            found = self._model.encode(
                batch,
                batch_size=len(batch),
                convert_to_tensor=True,
                show_progress_bar=False,
                normalize_embeddings=self._settings.normalize,
            )
        return {"embedding": found}


def _model(source: ModelSource, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as e:
        raise MissingExtra(
            "this teacher needs sentence-transformers: pip install 'softcache[sentence-transformers]'"
        ) from e
    with loading(source, "it with sentence-transformers"):
        return SentenceTransformer(source.model, device=device, revision=source.revision)
