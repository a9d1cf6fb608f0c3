"""Promise 1: any temperature, from the stored rows, within the stored dtype's rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softcache.codecs import DenseCodec
from softcache.errors import TaskError
from softcache.tasks import TaskSpec

TEMPERATURES = (0.5, 1, 2, 4, 8, 20)
LOGITS = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(2, 12)), elements=st.floats(-60, 60, width=32))


def reference(z: np.ndarray, t: float) -> np.ndarray:
    z = z.astype(np.float64) / t
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@settings(max_examples=100)
@given(LOGITS, st.sampled_from(["float32", "float16", "bfloat16"]), st.sampled_from(TEMPERATURES))
def test_logits(z: np.ndarray, dtype: str, t: float) -> None:
    codec = DenseCodec(TaskSpec("classification", (z.shape[1],), "logits"), dtype)
    values = torch.from_numpy(z)
    assert not codec.faults(values)
    found = codec.decoder.log_probs(codec.encode(values), t).double().numpy()
    rounding = float(torch.finfo(codec.torch_dtype).eps) * np.abs(z).max() / t
    assert np.abs(found - reference(z, t)).max() <= 2 * rounding + 1e-5 * max(1, np.abs(z).max() / t)


@settings(max_examples=50)
@given(LOGITS, st.sampled_from(TEMPERATURES))
def test_log_probs_and_probs_are_tempered_alike(z: np.ndarray, t: float) -> None:
    """p^(1/T), renormalised, is what softmax(z / T) is: whichever of the three a teacher gives."""
    z = z / 6
    log_p = torch.from_numpy(reference(z, 1.0)).float()
    for kind, values in (("log_probs", log_p), ("probs", log_p.exp())):
        codec = DenseCodec(TaskSpec("classification", (z.shape[1],), kind), "float32")
        assert not codec.faults(values)
        found = codec.decoder.log_probs(codec.encode(values), t).double().numpy()
        assert np.allclose(found, reference(z, t), atol=1e-3)


@given(LOGITS)
def test_a_temperature_per_row(z: np.ndarray) -> None:
    codec = DenseCodec(TaskSpec("classification", (z.shape[1],), "logits"), "float32")
    stored = codec.encode(torch.from_numpy(z))
    t = torch.linspace(0.5, 20, len(z))
    found = codec.decoder.log_probs(stored, t)
    for row in range(len(z)):
        alone = codec.decoder.log_probs({"values": stored["values"][row : row + 1]}, float(t[row]))
        assert torch.allclose(found[row], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    "t", [0, -1, float("nan"), float("inf"), torch.tensor([1.0, 0.0]), torch.ones(3), torch.ones(2, 1)]
)
def test_not_a_temperature(t: object) -> None:
    codec = DenseCodec(TaskSpec("classification", (3,), "logits"), "float32")
    with pytest.raises(TaskError):
        codec.decoder.log_probs(codec.encode(torch.zeros(2, 3)), t)


@pytest.mark.parametrize(
    ("kind", "dtype", "row", "reason"),
    [
        ("logits", "float16", [0, torch.nan, 0], "NaN"),
        ("logits", "float16", [0, torch.inf, 0], r"\+Inf"),
        ("logits", "float16", [0, -torch.inf, 0], "allow_masked"),
        ("logits", "float16", [0, 70_000, 0], "bfloat16 or float32"),
        ("logits", "bfloat16", [0, 3.4e38, 0], "float32"),
        ("probs", "float32", [0.5, 0.2, 0.2], "sum to 1"),
        ("probs", "float32", [1.2, -0.2, 0], "negative"),
        ("log_probs", "float32", [3.0, 1.0, 0], "sum to 1"),
    ],
)
def test_faults(kind: str, dtype: str, row: list[float], reason: str) -> None:
    import re

    good = {"logits": [0, 1, 2], "probs": [0.2, 0.3, 0.5], "log_probs": np.log([0.2, 0.3, 0.5]).tolist()}[kind]
    codec = DenseCodec(TaskSpec("classification", (3,), kind), dtype)
    faults = codec.faults(torch.tensor([good, row, good]))
    assert list(faults) == [1]
    assert re.search(reason, faults[1])


def test_masked_classes_where_allowed() -> None:
    codec = DenseCodec(TaskSpec("classification", (3,), "logits", allow_masked=True), "float16")
    values = torch.tensor([[0, -torch.inf, 1], [-torch.inf] * 3])
    assert list(codec.faults(values)) == [1]
    assert codec.decoder.log_probs(codec.encode(values[:1]), 4.0)[0, 1] == -torch.inf
