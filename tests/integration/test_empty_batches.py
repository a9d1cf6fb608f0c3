"""Samples, batches and fragments with nothing in them: built, verified, read with the right shapes."""

import pytest
import torch
from conftest import Workshop
from expressions import BOXES, DETECTION, answered_by_expression, one

import softcache


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_no_boxes(shop: Workshop) -> None:
    """A batch, a fragment, a cache without any box is built, read and verified."""
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
