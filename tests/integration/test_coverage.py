"""Samples that one target answers and another does not: masked in every codec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop
from every_kind import ORDER, ROWS, Kinds, T
from expressions import CLASSES, answered_by_expression, one
from language import Language

import softcache
from softcache.errors import AlignmentError


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
    """Sequences with a loss mask are masked where they are not covered, as all others are."""
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


def test_targets_that_do_not_cover_every_sample(tmp_path: Path) -> None:
    """A multi-task batch has every sample; those that a task does not cover are masked and count in no loss."""
    kinds = Kinds(tmp_path)
    names = ["tags", "maps", "depth", "objects"]
    kinds.recipe["tasks"] = {name: kinds.recipe["tasks"][name] for name in names}
    kinds.build(limit=9)
    kinds.build("~tasks.maps", "~tasks.depth", "~tasks.objects")
    cache, outputs = kinds.open(), kinds.outputs()
    covered = torch.from_numpy(ORDER < 9)
    loader = [{"id": ORDER[:10]}, {"id": ORDER[10:]}]
    batches = [batch["soft"] for batch in softcache.join(loader, cache, id="id")]
    data = softcache.attach([{"id": int(i)} for i in ORDER], cache, id="id")
    batches.append(softcache.collate(data.__getitems__(list(range(ROWS))))["soft"])
    for soft, there in zip(batches, [covered[:10], covered[10:], covered], strict=True):
        assert soft["tags"].mask.all()
        assert torch.equal(soft["maps"].mask, there)
        assert soft["depth"].values[~there].isnan().all()
        assert soft["depth"].parts["variance"][~there].isnan().all()
        assert (soft["objects"].lengths[~there] == 0).all()
        assert not soft["objects"].mask[~there].any()
    soft, rows = batches[-1], torch.from_numpy(ORDER)[covered]
    student = torch.randn(ROWS, 5, 3, 4)
    loss = softcache.distillation_loss(student, soft["maps"], T)
    log_p, log_q = (outputs["maps"][rows] / T).log_softmax(1), (student[covered] / T).log_softmax(1)
    assert torch.allclose(loss, T**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean(), rtol=1e-4)
    with pytest.raises(AlignmentError, match="maps@t does not cover"):
        cache["maps"].lookup(ORDER)
    with pytest.raises(AlignmentError, match=r"(maps|depth|objects)@t does not cover"):
        softcache.attach([{"id": i} for i in range(15, ROWS)], cache, id="id")
    with pytest.raises(AlignmentError, match="99"):
        next(iter(softcache.join([{"id": np.array([1, 99])}], cache, id="id")))
