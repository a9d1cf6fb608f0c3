"""What codecs refuse: temperatures too large, kinds of tasks they do not store."""

import pytest
import torch

from softcache.codecs import make_codec
from softcache.errors import CodecError, TaskError
from softcache.tasks import TaskSpec


def test_temperatures_too_large() -> None:
    task = TaskSpec("classification", (3,), "logits")
    codec = make_codec("dense", task, {})
    for temperature in (1e30, torch.tensor([1e30])):
        with pytest.raises(TaskError, match="at most 1e"):
            codec.decoder.log_probs(codec.encode(torch.randn(1, 3)), temperature)


def test_a_codec_that_does_not_store_maps() -> None:
    task = TaskSpec("segmentation", (3, 2, 2), "logits", activation="softmax")
    with pytest.raises(CodecError, match="codec hidden does not store maps"):
        make_codec("hidden", task, {"width": 4})
