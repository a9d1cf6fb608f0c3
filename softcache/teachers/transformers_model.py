"""Teachers from the transformers library for text, images and audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from softcache.errors import TeacherError
from softcache.kinds import KINDS
from softcache.teachers.adapter import Adapter, Description, OutputSpec
from softcache.teachers.hooks import Hooks, declared_hook, hooked, with_hooks
from softcache.teachers.numerics import DTYPES, Numerics
from softcache.teachers.pretrained import ModelSource, load_tokenizer, loading, model_files, model_source, transformers
from softcache.teachers.protocol import Fingerprint, NoOutputLayer, Sequences

# For each task, the class that loads its model, and the kind of input that it reads.
MODELS = {
    "sequence_classification": ("AutoModelForSequenceClassification", "text"),
    "token_classification": ("AutoModelForTokenClassification", "text"),
    "image_classification": ("AutoModelForImageClassification", "image"),
    "semantic_segmentation": ("AutoModelForSemanticSegmentation", "image"),
    "object_detection": ("AutoModelForObjectDetection", "image"),
    "audio_classification": ("AutoModelForAudioClassification", "audio"),
    "text_features": ("AutoModel", "text"),
    "image_features": ("AutoModel", "image"),
    "audio_features": ("AutoModel", "audio"),
}
# Libraries that prepare the model's inputs. Another version may prepare them differently.
LIBRARIES = {"text": ("tokenizers",), "image": ("pillow", "torchvision"), "audio": ()}
KIND_OF = {"token_classification": "sequence", "semantic_segmentation": "segmentation"}
_UNNAMED_LABEL = "LABEL_0"


class TransformersAdapter(Adapter):
    """A model of the transformers library with its own preprocessing.

    `model` is a folder, which may be in a Python package (`package:NAME`), or a name on the Hub. `column` is the column
    that it reads: text, images, or audio as numbers at `sampling_rate` (Hz). Its output is called `logits`. For
    token_classification, that is a row for each token that the model sees. For object_detection, it is a row for each
    box, with `boxes` as the model gives them (relative_cxcywh). The `*_features` tasks have no `logits` and answer only
    through `hooks`, which every other task can have too.
    """

    adapter: Literal["transformers"] = "transformers"
    model: str
    revision: str | None = None
    task: Literal[
        "sequence_classification",
        "token_classification",
        "image_classification",
        "semantic_segmentation",
        "object_detection",
        "audio_classification",
        "text_features",
        "image_features",
        "audio_features",
    ]
    column: str
    max_length: int | None = Field(default=None, ge=2)
    sampling_rate: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    hooks: Hooks = Field(default_factory=dict)
    numerics: Numerics = Numerics()

    @property
    def columns(self) -> list[str]:
        return [self.column]

    @property
    def reads_kind(self) -> str:
        """What the column holds: `text`, `image` or `audio`."""
        return MODELS[self.task][1]

    def describe(self, folder: Path) -> Description:
        source = model_source(folder, self.model, revision=self.revision)
        weights, files = model_files(source)
        config = self.model_dump(exclude={"adapter", "model", "revision", "hooks"}, exclude_defaults=True)
        fingerprint = Fingerprint("transformers", config, weights, files)
        answers = {} if self.task.endswith("_features") else {"logits": self._answer(source)}
        return Description(fingerprint, answers, libraries=("transformers", *LIBRARIES[self.reads_kind]))

    def load(self, folder: Path, device: str) -> TransformersTeacher:
        source, library = model_source(folder, self.model, revision=self.revision), transformers()
        with loading(source, f"it for {self.task}"):
            model = getattr(library, MODELS[self.task][0]).from_pretrained(
                source.model, dtype=DTYPES[self.dtype], **source.options()
            )
            processor = self._processor(source)
            model = model.to(device).eval().requires_grad_(False)
        return TransformersTeacher(model, processor, self, device)

    def declares(self, output: str, codec: str) -> dict[str, Any]:
        return declared_hook(self.hooks, output)

    def output_for(self, kind: str, codec: str) -> str | None:
        return None if KINDS[kind].is_intermediate else "logits"

    def _processor(self, source: ModelSource) -> Any:
        if self.reads_kind == "text":
            return load_tokenizer(source)
        kind = "AutoImageProcessor" if self.reads_kind == "image" else "AutoFeatureExtractor"
        return getattr(transformers(), kind).from_pretrained(source.model, **source.options())

    def _answer(self, source: ModelSource) -> OutputSpec:
        """Return what the model's configuration says about its classes. For a detector it does not say everything."""
        if self.task == "object_detection":
            return OutputSpec("detection", value_kind="logits")
        with loading(source, "its configuration"):
            config = transformers().AutoConfig.from_pretrained(source.model, **source.options())
        problem = getattr(config, "problem_type", None)
        names = tuple(str(config.id2label[i]) for i in range(len(config.id2label)))
        if problem == "regression" or (problem is None and len(names) == 1):
            return OutputSpec("regression")
        kind = "multilabel" if problem == "multi_label_classification" else KIND_OF.get(self.task)
        labels = None if _UNNAMED_LABEL in names else names
        return OutputSpec(kind, classes=len(names), labels=labels, value_kind="logits")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task.endswith("_features") and not self.hooks:
            raise ValueError(f"{self.task} needs hooks, which name the modules whose outputs to store")
        if self.max_length is not None and self.reads_kind != "text":
            raise ValueError("max_length is only for tasks that read text")
        if (self.sampling_rate is not None) != (self.reads_kind == "audio"):
            raise ValueError("sampling_rate is for audio tasks, which require it")
        return self


class TransformersTeacher(NoOutputLayer):
    """A model of the transformers library, run in eval mode and without gradients."""

    def __init__(self, model: torch.nn.Module, processor: Any, settings: TransformersAdapter, device: str) -> None:
        self._model, self._processor, self._settings = model, processor, settings
        self._device = torch.device(device)

    def parameter_count(self) -> int:
        """Return how many parameters the model has."""
        return sum(p.numel() for p in self._model.parameters())

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the model's inputs by name, text and audio padded to the longest sample."""
        settings = self._settings
        given = [_content(sample[settings.column], settings) for sample in samples]
        if settings.reads_kind == "text":
            longest = settings.max_length
            found = self._processor(
                given, padding=True, truncation=longest is not None, max_length=longest, return_tensors="pt"
            )
        elif settings.reads_kind == "image":
            found = self._processor(images=given, return_tensors="pt")
        else:
            found = self._processor(given, sampling_rate=settings.sampling_rate, padding=True, return_tensors="pt")
        return dict(found)

    def predict(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Return `logits`, unless the task is features, and the outputs that the hooks collect."""
        inputs = {name: self._on_device(tensor) for name, tensor in batch.items()}
        mask = inputs.get("attention_mask")
        with self._settings.numerics.applied(self._device), hooked(self._model, self._settings.hooks, mask) as further:
            answer = self._model(**inputs)
        if self._settings.task.endswith("_features"):
            return dict(further)
        return with_hooks({"logits": self._logits(answer, mask)}, further)

    def _logits(self, answer: Any, mask: torch.Tensor | None) -> Any:
        if self._settings.task == "object_detection":
            return Sequences.from_lists(list(answer.logits), boxes=list(answer.pred_boxes))
        if self._settings.task != "token_classification":
            return answer.logits
        if mask is None:
            raise TeacherError("the tokenizer returns no attention_mask, so it is unknown where the samples end")
        rows = [values[there.bool()] for values, there in zip(answer.logits, mask, strict=True)]
        return Sequences.from_lists(rows)

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        is_float = tensor.is_floating_point()
        return tensor.to(self._device, DTYPES[self._settings.dtype]) if is_float else tensor.to(self._device)


def _content(value: Any, settings: TransformersAdapter) -> Any:
    """Return what a sample's column holds, as the processors take it. Raises TypeError if it is the wrong thing."""
    if settings.reads_kind == "text":
        if not isinstance(value, str):
            raise TypeError(f"column {settings.column!r} is {type(value).__name__}; expected text")
        return value
    if settings.reads_kind == "image":
        return value.convert("RGB") if hasattr(value, "convert") else np.asarray(value)
    sound = np.asarray(value, np.float32)
    if sound.ndim != 1:
        raise TypeError(f"column {settings.column!r} has shape {list(sound.shape)}; expected one channel of numbers")
    return sound
