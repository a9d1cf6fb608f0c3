"""Samples that one target answers and another does not: masked in every codec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop
from expressions import CLASSES, answered_by_expression, one
from language import Language

import softcache


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


STORES = [{"dtype": "bfloat16"}, {"codec": "topk", "k": 2}, {"codec": "sampled"}, {"codec": "quantized"}]


@pytest.mark.parametrize("store", STORES)
def test_uncovered_rows_of_every_codec(shop: Workshop, store: dict[str, Any]) -> None:
    one(shop, "{'a': h, 'b': h}", CLASSES | {"store": store})
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"]}
    shop.build(limit=9)
    shop.build("~tasks.a")
    cache = shop.open()
    (batch,) = softcache.join([{"id": np.array([2, 30])}], cache, id="id")
    soft = batch["soft"]["a"]
    assert soft.mask.tolist() == [True, False]
    assert soft.log_probs(2.0)[1].isnan().all()
    assert torch.equal(soft[:1].log_probs(2.0), cache["a"].lookup([2]).log_probs(2.0))


def test_uncovered_sequences_with_loss_masks(tmp_path: Path) -> None:
    """Sequences whose rows leave positions out are masked where they are not covered, like any other."""
    language = Language(tmp_path)
    rows = [{"id": i, "tokens": ids, "mask": [0, 0, *[1] * (len(ids) - 2)]} for i, ids in enumerate(language.ids)]
    language.rows(rows)
    teacher = language.recipe["teachers"]["t"]
    del teacher["text"]
    teacher |= {"input_ids": "tokens", "loss_mask": "mask"}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(language.recipe))
    softcache.build(path, language.cache, limit=3)
    softcache.build(path, language.cache, ["~tasks.lm"])
    cache = softcache.open(language.cache)
    (batch,) = softcache.join([{"id": np.array([1, 5, 0])}], cache, id="id", targets=["lm"])
    soft = batch["soft"]["lm"]
    assert soft.mask.any(1).tolist() == [True, False, True]
    assert soft.lengths.tolist() == [len(language.ids[1]) - 1, 0, len(language.ids[0]) - 1]
    alone = cache["lm"].lookup([1])
    assert torch.equal(soft[:1].packed.log_probs(2.0), alone.packed.log_probs(2.0))
