"""Ids, row numbers, tokens and other arguments that fit no stored rows, or come in unusual types."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Workshop
from language import Language

import softcache
from softcache.errors import (
    AlignmentError,
    TaskError,
)


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


def test_wrong_use_of_targets(workshop: Workshop) -> None:
    workshop.build()
    cache = workshop.open()
    target = cache["cls"]
    soft = target.lookup([1, 2])
    for ids in ("12", b"1", [[1, 2]], np.zeros((2, 2), int), torch.zeros(1, 1, dtype=torch.int64)):
        with pytest.raises(AlignmentError):
            target.lookup(ids)
    assert target.lookup([torch.tensor(3), np.int64(4)]).ids.tolist() == [3, 4]
    with pytest.raises(AlignmentError, match="views has the shape"):
        target.lookup([1, 2, 3], views=[0, 0])
    for temperature in ("a", None, [1.0], object()):
        with pytest.raises(TaskError):
            soft.log_probs(temperature)
    assert torch.isfinite(soft.log_probs(1e-39)).any()
    assert not torch.isnan(soft.log_probs(1e-39)).any()
    assert len(soft[np.int64(1)]) == len(soft[torch.tensor(1)]) == 1
    assert cache.get("nope") is None
    assert "cls" in cache
    assert "nope" not in cache
    assert "cls" in softcache.SoftBatch({"cls@t": soft})
    with pytest.raises(TaskError, match="not a target"):
        softcache.ensemble(["cls"])  # type: ignore[list-item]
    with pytest.raises(AlignmentError, match="field 'soft' of its own"):
        next(iter(softcache.join([{"id": [1], "soft": 1}], cache, id="id")))


def test_arguments_in_the_types_that_loaders_give(language: Language) -> None:
    target = language.build()["lm"]
    ids = [language.ids[0], language.ids[1]]
    soft = target.lookup([0, 1], input_ids=ids)
    width = max(map(len, ids))
    padded = np.array([row + [0] * (width - len(row)) for row in ids])
    for dtype in (np.uint16, np.uint32, np.int32):
        target.lookup([0, 1], input_ids=padded.astype(dtype))
    for wrong in ([["a"], ["b"]], padded.astype(float), "text", padded > 3, [ids[0][:3], ids[1]], [1, 2]):
        with pytest.raises(AlignmentError, match=r"input_ids|not the token ids"):
            target.lookup([0, 1], input_ids=wrong)
    for starts, lengths in (
        (np.array([2**64 - 1], np.uint64), 2),
        ([2**63 - 1], [2]),
        ([[1], [1, 2]], 3),
        ([0], [10**13]),
        ([0.5], [1]),
    ):
        with pytest.raises(AlignmentError, match="must be integers from 0"):
            target.lookup_spans([1], starts, lengths)
    mask = torch.ones(2, width + 1, dtype=torch.bool)[:, 1:]
    logits = torch.zeros(2, width, 300)
    assert softcache.distillation_loss(logits, soft, mask=mask) == softcache.distillation_loss(logits, soft)
    with pytest.raises(TaskError, match="width is 3"):
        soft.next_tokens(3)
    with pytest.raises(TaskError, match=r"labels are torch\.bool"):
        softcache.distillation_loss(logits, soft, labels=mask, alpha=0.5)
    assert soft[[]].mask.shape == (0, 0)
    assert soft[::-1].ids.tolist() == [1, 0]
    assert isinstance(pickle.dumps(soft), bytes)
