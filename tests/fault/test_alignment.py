"""Ids, row numbers, tokens and other arguments that fit no stored rows, or come in unusual types."""

import numpy as np
import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import (
    AlignmentError,
    TaskError,
)


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
