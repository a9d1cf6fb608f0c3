"""Means of distributions, against the same formulas in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softcache.codecs import Codec, DenseCodec, QuantizedCodec, SampledCodec, TopkCodec
from softcache.errors import TaskError
from softcache.soft.ensemble_decoder import EnsembleDecoder
from softcache.soft.members import joined_columns
from softcache.tasks import TaskSpec

CLASSES = 6
SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=4)


def ensemble(
    codecs: list[Codec], values: list[torch.Tensor], weights: list[float], mean: str
) -> tuple[EnsembleDecoder, dict[str, torch.Tensor]]:
    """The decoder of an ensemble of stored values, and its columns."""
    columns = joined_columns(codec.encode(own) for codec, own in zip(codecs, values, strict=True))
    decoder = EnsembleDecoder(codecs[0].task, tuple(codec.decoder for codec in codecs), tuple(weights), mean)
    return decoder, columns


def dense(kind: str, **options: object) -> DenseCodec:
    return DenseCodec(TaskSpec(kind, (CLASSES,), "logits", **options), "float32")  # type: ignore[arg-type]


def drawn(seed: int, members: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [4 * torch.randn(5, CLASSES, generator=generator) for _ in range(members)]


def outcomes(logits: np.ndarray, t: float, kind: str) -> np.ndarray:
    """The distributions at T, float64: [B, C], or for independent classes [B, C, 2]."""
    z = logits / t if kind == "classification" else np.stack([logits / t, 0 * logits], -1)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@given(st.integers(0, 10_000), SHARES, st.floats(0.5, 20), st.sampled_from(["classification", "multilabel"]))
def test_both_means(seed: int, given: list[float], t: float, kind: str) -> None:
    weights = [share / sum(given) for share in given]
    values = drawn(seed, len(weights))
    each = [outcomes(own.double().numpy(), t, kind) for own in values]
    product = np.prod([p**w for p, w in zip(each, weights, strict=True)], axis=0)
    expected = {
        "arithmetic": sum(w * p for p, w in zip(each, weights, strict=True)),
        "geometric": product / product.sum(-1, keepdims=True),
    }
    for mean, wanted in expected.items():
        decoder, columns = ensemble([dense(kind)] * len(values), values, weights, mean)
        found = decoder.log_probs(columns, t).double().exp().numpy()
        np.testing.assert_allclose(found, wanted if kind == "classification" else wanted[..., 0], rtol=1e-4)
        if kind == "multilabel":
            both = decoder.log_outcomes(columns, torch.full((5,), t)).double().exp().numpy()
            np.testing.assert_allclose(both, wanted, rtol=1e-4)


def test_the_geometric_mean_is_of_logits() -> None:
    """It is the softmax of the mean logits, at every temperature."""
    values = drawn(0, 3)
    decoder, columns = ensemble([dense("classification")] * 3, values, [0.5, 0.25, 0.25], "geometric")
    mean = 0.5 * values[0] + 0.25 * values[1] + 0.25 * values[2]
    for t in (0.5, 1.0, 8.0):
        assert torch.allclose(decoder.log_probs(columns, t), (mean / t).log_softmax(1), atol=1e-5)


def test_classes_that_one_member_rules_out() -> None:
    """An arithmetic mean keeps the other's share, a geometric one nothing; the rest is what the others make of it."""
    values = drawn(1, 2)
    values[0][:, 2] = -torch.inf
    codec = dense("classification", allow_masked=True)
    p, q = (own.double().softmax(1) for own in values)
    decoder, columns = ensemble([codec, codec], values, [0.75, 0.25], "arithmetic")
    assert torch.allclose(decoder.log_probs(columns, 1.0).double(), (0.75 * p + 0.25 * q).log(), atol=1e-5)
    decoder, columns = ensemble([codec, codec], values, [0.75, 0.25], "geometric")
    found, expected = decoder.log_probs(columns, 1.0), p**0.75 * q**0.25
    assert (found[:, 2] == -torch.inf).all()
    assert torch.allclose(found.double().exp(), expected / expected.sum(1, keepdim=True), atol=1e-6)
    for own in values:
        own[3] = -torch.inf
    values[0][3, :3] = values[1][3, 3:] = 0.0
    decoder, columns = ensemble([codec, codec], values, [0.5, 0.5], "geometric")
    with pytest.raises(TaskError, match="no geometric mean for 1 distribution:"):
        decoder.log_probs(columns, 1.0)
    decoder, columns = ensemble([codec, codec], values, [0.5, 0.5], "arithmetic")
    assert torch.allclose(decoder.log_probs(columns, 1.0)[3].exp(), torch.full((CLASSES,), 1 / 6))


def test_independent_classes_that_one_member_rules_out() -> None:
    values = drawn(2, 2)
    values[0][:, 2] = -torch.inf
    codec = dense("multilabel", allow_masked=True)
    for mean, expected in (("arithmetic", 0.5 * values[1][:, 2].double().sigmoid()), ("geometric", torch.zeros(5))):
        decoder, columns = ensemble([codec, codec], values, [0.5, 0.5], mean)
        assert torch.allclose(decoder.log_probs(columns, 1.0)[:, 2].double().exp(), expected.double(), atol=1e-6)
        assert torch.allclose(decoder.log_outcomes(columns, 1.0).exp().sum(-1), torch.ones(5, CLASSES), atol=1e-6)


def test_members_in_several_codecs() -> None:
    """Each member answers through its own codec; sampled classes have no geometric mean."""
    values, task = drawn(3, 3), TaskSpec("classification", (CLASSES,), "logits")
    codecs: list[Codec] = [DenseCodec(task, "float32"), QuantizedCodec(task), TopkCodec(task, k=CLASSES)]
    decoder, columns = ensemble(codecs, values, [1 / 3] * 3, "geometric")
    expected = (sum(values) / 3 / 2.0).log_softmax(1)  # type: ignore[operator]
    assert torch.allclose(decoder.log_probs(columns, 2.0), expected, atol=2e-2)
    assert decoder.sparse_log_probs(columns, 2.0) is None
    codecs[0] = SampledCodec(task)
    assert not ensemble(codecs, values, [1 / 3] * 3, "arithmetic")[0].covers_all
    with pytest.raises(TaskError, match="a member stores sampled classes; use mean='arithmetic'"):
        ensemble(codecs, values, [1 / 3] * 3, "geometric")


def test_maps() -> None:
    """Place by place, for softmax and sigmoid; single places answer as the maps do."""
    generator = torch.Generator().manual_seed(4)
    for activation in ("softmax", "sigmoid"):
        task = TaskSpec("segmentation", (CLASSES, 2, 3), "logits", activation=activation)
        values = [torch.randn(4, CLASSES, 2, 3, generator=generator) for _ in range(2)]
        decoder, columns = ensemble([DenseCodec(task, "float32")] * 2, values, [0.5, 0.5], "geometric")
        mean = (values[0] + values[1]) / 2 / 3.0
        expected = mean.log_softmax(1) if activation == "softmax" else torch.nn.functional.logsigmoid(mean)
        found = decoder.log_probs(columns, torch.full((4,), 3.0))
        assert torch.allclose(found, expected, atol=1e-5)
        single, items = decoder.per_item(columns)
        places = single.log_probs(items, 3.0).view(4, 2, 3, CLASSES).movedim(-1, 1)
        assert torch.allclose(places, expected, atol=1e-5)
