"""Ensembles of targets: of confident teachers, and of different codecs."""

import numpy as np
import pytest
import torch
from conftest import Workshop
from expressions import CLASSES, answered_by_expression, one

import softcache
from softcache.errors import TaskError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_ensembles_of_confident_teachers(shop: Workshop) -> None:
    one(shop, "{'a': h * 0 + 17, 'b': h * 0 + 18}", {"kind": "multilabel", "classes": 6, "value_kind": "logits"})
    shop.recipe["tasks"]["b"] = shop.recipe["tasks"]["a"]
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0])
    loss = softcache.distillation_loss(torch.zeros(1, 6), soft, divergence="reverse_kl")
    lacking = np.log((1 / (1 + np.exp(17.0)) + 1 / (1 + np.exp(18.0))) / 2)
    assert float(loss) == pytest.approx(6 * (0.5 * np.log(0.5) + 0.5 * (np.log(0.5) - lacking)), rel=1e-4)


def test_members_in_different_codecs(shop: Workshop) -> None:
    one(shop, "{'a': h, 'b': h}", CLASSES)
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"], "store": {"codec": "topk", "k": 2}}
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0, 1])
    assert soft.log_probs(2.0).shape == (2, 6)
    with pytest.raises(TaskError, match="no common shape"):
        soft.values  # noqa: B018
