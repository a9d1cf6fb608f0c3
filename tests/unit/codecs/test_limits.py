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


@pytest.mark.parametrize("name", ["quantized", "hidden"])
def test_values_too_far_apart_for_steps(name: str) -> None:
    """What decodes to infinity is refused when it is stored."""
    task = TaskSpec("classification", (3,), "logits")
    codec = make_codec(name, task, {"width": 3, "dtype": "int8"} if name == "hidden" else {})
    values = torch.tensor([[0.0, 1.0, 2.0], [-3e38, 0.0, 3e38], [3e38, 3e38, 3e38], [0.0, 1.0, float("nan")]])
    found = codec.faults(values)
    assert found.keys() == {1, 3}
    assert "too far apart for 256 steps in float32" in found[1]
    decoded = codec.decoder.values(codec.encode(values[[0, 2]]))
    assert torch.allclose(decoded, values[[0, 2]], rtol=1e-2, atol=1e-2)


def test_classes_ruled_out_do_not_widen_the_range() -> None:
    codec = make_codec("quantized", TaskSpec("classification", (3,), "logits", allow_masked=True), {})
    values = torch.tensor([[0.0, -torch.inf, 2.0]])
    assert codec.faults(values) == {}
    assert codec.decoder.values(codec.encode(values))[0, 1] == -torch.inf


def test_served_log_probabilities_below_float32() -> None:
    codec = make_codec("served", TaskSpec("classification", (5,), "log_probs"), {"k": 2})
    values = torch.tensor([[[0, 1], [-0.1, -1e300]], [[0, 1], [-0.1, -1e30]]], dtype=torch.float64)
    assert codec.faults(values) == {0: "a log-probability that is not finite"}
