"""Samples, batches and fragments with nothing in them: built, verified, read with the right shapes."""

from pathlib import Path

import pytest
import torch
from conftest import Workshop
from expressions import BOXES, DETECTION, answered_by_expression, one
from language import TEXTS, Language

import softcache


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_no_boxes(shop: Workshop) -> None:
    """A cache without a single box is built, read and verified."""
    one(shop, f"{{'a': {BOXES.format(n=0, size=1)}}}", DETECTION).build()
    soft = shop.open()["a"].lookup([3, 1])
    assert isinstance(soft, softcache.SoftSequences)
    assert soft.lengths.tolist() == [0, 0]
    assert float(softcache.detection_loss(torch.randn(2, 3, 6), torch.rand(2, 3, 4), soft)) == 0
    assert softcache.verify(shop.cache).ok


def test_an_empty_batch_of_maps(shop: Workshop) -> None:
    task = {"kind": "segmentation", "classes": 3, "size": [1, 2], "activation": "softmax", "value_kind": "logits"}
    one(shop, "{'a': h.view(-1, 3, 1, 2)}", task | {"store": {"codec": "topk", "k": 2}}).build()
    soft = shop.open()["a"].lookup([])
    assert soft.log_probs(2.0).shape == (0, 3, 1, 2)
    assert soft.values.shape == (0, 2, 1, 2)


def test_samples_without_positions(language: Language) -> None:
    """A batch, a shard or a lookup may hold only texts of one token."""
    language.rows([{"id": i, "text": text} for i, text in enumerate(["x", "y", "z", *TEXTS])])
    task = language.recipe["tasks"]["lm"]
    language.recipe["tasks"] = {
        name: task | {"store": store}
        for name, store in {
            "top": {"codec": "topk", "k": 4},
            "quant": {"codec": "quantized"},
            "near": {"codec": "hidden", "width": 32},
        }.items()
    }
    cache = language.build("build.batch_size=1", "build.fragment_rows=2")
    assert softcache.verify(language.cache).ok
    for name in language.recipe["tasks"]:
        for wanted in ([0, 1], []):
            soft = cache[name].lookup(wanted)
            assert soft.log_probs(torch.full((len(wanted),), 2.0)).shape == (len(wanted), 0, 300)
            assert soft.values.shape[:2] == (len(wanted), 0)
        assert softcache.distillation_loss(torch.zeros(2, 4, 300), cache[name].lookup([0, 1])) == 0
        assert len(cache[name].read(slice(5, 2))) == len(cache[name].read(slice(0, 0))) == 0
        assert len(cache[name].lookup_spans([], [], [])) == 0
