"""Compressed codecs against float64: what they answer at any temperature, and what they must not lose."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softcache.codecs import Codec, QuantizedCodec, SampledCodec, TopkCodec, codec_from_json, make_codec
from softcache.codecs.bits import decode_gaps, encode_gaps, pack_ids, read_ids
from softcache.codecs.fidelity import TEMPERATURES, Errors, better_settings, measure, merge_errors, wide_rows
from softcache.codecs.sketch import LADDERS, _steps
from softcache.errors import CodecError, FormatError, TaskError
from softcache.tasks import TaskSpec

ANY_T = st.floats(0.5, 20)


def task(classes: int, **options: object) -> TaskSpec:
    return TaskSpec("classification", (classes,), **({"value_kind": "logits"} | options))  # type: ignore[arg-type]


def true_log_probs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits.double() / temperature).log_softmax(1)


def rows(kind: str, classes: int, seed: int, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, classes, generator=generator)
    made: dict[str, Callable[[], torch.Tensor]] = {
        "normal": lambda: 3 * normal,
        "narrow": lambda: 0.01 * normal + 1000,
        "constant": lambda: torch.full_like(normal, 7.0),
        "ties": lambda: (2 * normal).round(),
        "one huge": lambda: normal.index_fill(1, torch.tensor([classes // 2]), 1e4),
        "one tiny": lambda: normal.index_fill(1, torch.tensor([classes // 2]), -1e4),
        "ruled out by hand": lambda: torch.cat([3 * normal[:, : classes // 2], normal[:, classes // 2 :] - 1e4], 1),
        "exponential": lambda: -3 * torch.rand(count, classes, generator=generator).log(),
        "wide": lambda: 100 * torch.rand(count, classes, generator=generator),
    }
    return made[kind]()


KINDS = ("normal", "narrow", "constant", "ties", "one huge", "one tiny", "ruled out by hand", "exponential", "wide")


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([2, 3, 33, 500, 3000]),
    st.sampled_from([1, 2, 32, 64]),
    st.sampled_from([12, 16, 24]),
    ANY_T,
    st.integers(0, 1000),
)
def test_topk(kind: str, classes: int, k: int, nodes: int, temperature: float, seed: int) -> None:
    """The stored classes' log p and the mass of the rest, at any temperature."""
    codec = TopkCodec(task(classes), k=k, nodes=nodes)
    logits = rows(kind, classes, seed)
    assert not codec.faults(logits)
    columns = codec.encode(logits)
    ids, log_probs, log_tail = codec.decoder.sparse_log_probs(columns, temperature)
    truth = true_log_probs(logits, temperature)
    assert ids.shape == (4, min(k, classes))
    assert all(len(set(row)) == ids.shape[1] for row in ids.tolist())
    lowest = truth.gather(1, ids).amin(1)
    assert (truth.scatter(1, ids, -torch.inf).amax(1) <= lowest + 1e-6).all(), "the highest are stored"
    tail = truth.scatter(1, ids, -torch.inf).logsumexp(1).exp()
    bound = {12: 5e-3, 16: 1e-3, 24: 1e-3}[nodes]
    assert (log_tail.double().exp() - tail).abs().max() <= bound
    # A gap is off by half a step at most: 2^-11 nats, or 2^-6 where it is above 48, which T divides.
    close = truth.amax(1, keepdim=True) - truth.gather(1, ids) <= 47 / temperature
    step = torch.where(close, 2**-11, 2**-6) / temperature
    wrong = (log_probs.double().exp() - truth.gather(1, ids).exp()).abs()
    assert (wrong <= truth.gather(1, ids).exp() * 2 * step + bound + 1e-6).all()
    mass = log_probs.double().exp().sum(1) + log_tail.double().exp()
    assert (mass - 1).abs().max() < 1e-5
    dense = codec.decoder.log_probs(columns, temperature)
    assert torch.equal(dense.gather(1, ids), log_probs)
    assert (dense.double().exp().sum(1) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("nodes", LADDERS)
def test_powers_are_products_of_powers_before(nodes: int) -> None:
    """What is multiplied by has been reached: a ladder of other nodes would read memory that nobody wrote."""
    steps = _steps(LADDERS[nodes].nodes)
    reached = [1, *(at + step for at, step, _ in steps)]
    assert {step for _, step, _ in steps} <= set(reached)
    assert [at + step for at, step, is_node in steps if is_node] == [n for n in LADDERS[nodes].nodes if n > 1]
    assert all(step <= at for at, step, _ in steps)


@pytest.mark.parametrize("nodes", LADDERS)
def test_heavy_tails(nodes: int) -> None:
    """The bound of the default is 1e-3, on tails that no formula fits; fewer nodes err more, and say so."""
    codec = TopkCodec(task(128_000), k=32, nodes=nodes)
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(2 * generator.standard_t(4, (8, 128_000))).float()
    errors = measure(codec, logits, codec.encode(logits))
    assert errors.worst <= {4: 4e-2, 8: 3e-2, 12: 1e-2, 16: 1e-3, 24: 1e-3}[nodes]


def test_per_row_temperatures() -> None:
    codec = TopkCodec(task(1000))
    logits = rows("normal", 1000, 0)
    columns = codec.encode(logits)
    at = torch.tensor([0.5, 1.3, 4.0, 20.0])
    together = codec.decoder.sparse_log_probs(columns, at)
    for i, t in enumerate(at.tolist()):
        alone = codec.decoder.sparse_log_probs({name: c[i : i + 1] for name, c in columns.items()}, t)
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[i : i + 1], b)


def test_below_the_ladder() -> None:
    columns = TopkCodec(task(50)).encode(rows("normal", 50, 0))
    with pytest.raises(TaskError, match=r"answers from T = 0.5 up"):
        TopkCodec(task(50)).decoder.log_probs(columns, 0.49)
    whole = TopkCodec(task(50), k=50)
    found = whole.decoder.log_probs(whole.encode(rows("normal", 50, 0)), 0.1)
    assert torch.allclose(found.double().exp(), true_log_probs(rows("normal", 50, 0), 0.1).exp(), atol=2e-2)


@pytest.mark.parametrize("value_kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("kept", [0, 3, 40, 80])
def test_masked_classes(value_kind: str, kept: int) -> None:
    """-Inf, or a probability of 0, in the head, in the tail, or everywhere in the tail."""
    logits = rows("normal", 100, 1)
    logits[:, kept + 1 :] = -torch.inf
    values = {"logits": logits, "probs": logits.softmax(1), "log_probs": logits.log_softmax(1)}[value_kind]
    codec = TopkCodec(task(100, value_kind=value_kind, allow_masked=value_kind != "probs"), k=8)
    assert not codec.faults(values)
    columns = codec.encode(values)
    for temperature in (0.5, 0.9, 3.0, 20.0):
        ids, log_probs, log_tail = codec.decoder.sparse_log_probs(columns, temperature)
        truth = true_log_probs(logits, temperature)
        assert torch.allclose(log_probs.double().exp(), truth.gather(1, ids).exp(), atol=1e-3)
        assert torch.allclose(log_tail.double().exp(), truth.scatter(1, ids, -torch.inf).exp().sum(1), atol=1e-3)
        assert not log_probs.isnan().any()
        assert not log_tail.isnan().any()


@pytest.mark.parametrize("classes", [2, 32_769, 65_536, 65_537, 131_073, 262_144])
def test_class_numbers(classes: int) -> None:
    """No class number is mistaken for another, on either side of 15, 16, 17 and 18 bits."""
    edges = sorted({n for n in (0, 1, 32_767, 32_768, 65_535, 65_536, 131_071, 131_072, classes - 1) if n < classes})
    for width in (1, 7, 8, 9, len(edges)):
        ids = torch.tensor([(edges * 9)[:width], (edges[::-1] * 9)[:width]])
        assert torch.equal(read_ids(pack_ids(ids, classes), classes), ids)
    codec = TopkCodec(task(classes), k=len(edges))
    logits = torch.randn(2, classes)
    logits[:, edges] = torch.arange(len(edges)) + 50.0
    assert codec.decoder.class_ids(codec.encode(logits)).tolist() == [edges[::-1]] * 2
    assert {c.name: tuple(v.shape[1:]) for c, v in zip(codec.columns, codec.encode(logits).values(), strict=True)} == {
        c.name: c.shape for c in codec.columns
    }


@given(st.lists(st.floats(0, 700, width=32) | st.just(math.inf), min_size=1, max_size=20))
def test_gaps(gaps: list[float]) -> None:
    wanted = torch.tensor(gaps)
    for up in (False, True):
        found = decode_gaps(encode_gaps(wanted, up=up))
        for before, after in zip(wanted.tolist(), found.tolist(), strict=True):
            if math.isinf(before):
                assert math.isinf(after)
            elif before <= 559:
                step = 2**-10 if before <= 48 else 2**-5
                assert (0 <= after - before <= step) if up else abs(after - before) <= step / 2
            else:
                assert 550 < after < math.inf


def test_companions() -> None:
    logits = rows("normal", 5000, 3)
    columns = TopkCodec(task(5000)).encode(logits)
    log_p = true_log_probs(logits, 1.0)
    top = log_p.exp().topk(32).values
    assert torch.allclose(columns["entropy"].double(), -(log_p.exp() * log_p).sum(1), atol=5e-3)
    assert torch.equal(columns["top1"].long(), logits.argmax(1))
    assert torch.allclose(columns["top1_prob"].double(), top[:, 0], rtol=2e-3)
    assert torch.allclose(columns["tail_mass"].double(), 1 - top.sum(1), rtol=2e-3)
    assert "entropy" not in TopkCodec(task(5000), companions=False).encode(logits)


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.sampled_from([2, 5, 300]), st.integers(0, 1000), ANY_T)
def test_quantized(kind: str, classes: int, seed: int, temperature: float) -> None:
    logits = rows(kind, classes, seed)
    codec = QuantizedCodec(task(classes))
    stored = codec.decoder.values(codec.encode(logits)).double()
    span = (logits.amax(1) - logits.amin(1)).double()[:, None]
    assert ((stored - logits).abs() <= span / 508 + 1e-6 * logits.abs().max()).all()
    found = codec.decoder.log_probs(codec.encode(logits), temperature).double()
    assert ((found - true_log_probs(logits, temperature)).abs() <= span / 254 / temperature + 1e-3).all()


def test_quantized_keeps_masked_classes_and_features() -> None:
    logits = rows("normal", 6, 0)
    logits[:, 2] = -torch.inf
    codec = QuantizedCodec(task(6, allow_masked=True))
    assert not codec.faults(logits)
    assert torch.equal(codec.decoder.values(codec.encode(logits)) == -torch.inf, logits == -torch.inf)
    features = torch.randn(3, 4, 5)
    maps = QuantizedCodec(TaskSpec("features", (4, 5)))
    assert torch.allclose(maps.decoder.values(maps.encode(features)), features, atol=0.02)
    assert maps.decoder.values(maps.missing(2)).isnan().all()
    with pytest.raises(CodecError, match="small probabilities"):
        QuantizedCodec(task(6, value_kind="probs"))


def test_sampled_is_unbiased() -> None:
    """Over many rows of nearly one distribution, the mean estimate is p at T = 1, and re-weighted at others."""
    classes = 40
    base = rows("normal", classes, 5, 1)
    logits = base + 1e-3 * torch.randn(4000, classes, generator=torch.Generator().manual_seed(0))
    for proposal in (1.0, 2.0):
        codec = SampledCodec(task(classes), draws=12, proposal=proposal)
        columns = codec.encode(logits)
        assert (columns["counts"].int().sum(1) == 12).all()
        counted = codec.decoder.compared(columns).double().mean(0)
        assert torch.allclose(counted, true_log_probs(base, proposal).exp()[0], atol=0.01)
        if proposal == 1.0:
            assert torch.allclose(codec.decoder.log_probs(columns, 1.0).double().exp().mean(0), counted, atol=1e-6)
    fine = SampledCodec(task(classes), draws=255, proposal=3.0)
    columns = fine.encode(logits[:200])
    for temperature in (1.0, 2.0, 4.0):
        found = fine.decoder.log_probs(columns, temperature).double().exp()
        assert (found.sum(1) - 1).abs().max() < 1e-5
        assert torch.allclose(found.mean(0), true_log_probs(base, temperature).exp()[0], atol=0.02)
    assert torch.equal(fine.encode(logits[7:8])["ids"], columns["ids"][7:8]), "a row is the same in any batch"


@pytest.mark.parametrize(
    "codec", [TopkCodec(task(70_000)), TopkCodec(task(20), k=64), SampledCodec(task(20)), QuantizedCodec(task(20))]
)
def test_rows_without_an_answer(codec: Codec) -> None:
    columns = codec.missing(3)
    assert {c.name: c.shape for c in codec.columns} == {name: tuple(v.shape[1:]) for name, v in columns.items()}
    assert codec.decoder.log_probs(columns, 2.0).isnan().all()
    assert codec.decoder.values(columns).isnan().all()
    sparse = codec.decoder.sparse_log_probs(columns, 2.0)
    if sparse is not None:
        assert sparse.log_probs.isnan().all()
        assert int(sparse.ids.max()) < codec.task.shape[0]


def test_measured_errors() -> None:
    """They are what a comparison with float64 gives, they merge, and they come back from JSON."""
    logits = rows("normal", 300, 2, 12)
    codec = TopkCodec(task(300), k=8, nodes=12)
    columns = codec.encode(logits)
    whole = measure(codec, logits, columns)
    for temperature in TEMPERATURES:
        p, q = true_log_probs(logits, temperature), codec.decoder.log_probs(columns, temperature).double()
        tv = (p.exp() - q.exp()).abs().sum(1) / 2
        kl = (p.exp() * (p - q)).sum(1)
        at = whole.at[f"{temperature:g}"]
        assert at["tv"] == pytest.approx((float(tv.max()), float(tv.mean())), rel=6e-3, abs=3e-6)
        assert at["kl"] == pytest.approx((float(kl.max()), float(kl.mean())), rel=6e-3, abs=3e-6)
    halves = [measure(codec, logits[i], {n: c[i] for n, c in columns.items()}) for i in (slice(0, 5), slice(5, 12))]
    merged = merge_errors(halves)
    assert merged.rows == 12
    for temperature, found in merged.at.items():
        for name, extent in found.items():
            assert extent == pytest.approx(whole.at[temperature][name], rel=1e-3, abs=1e-7)
    assert Errors.from_json(whole.to_json()).to_json() == whole.to_json()
    sampled = SampledCodec(task(300))
    assert measure(sampled, logits, sampled.encode(logits)).at["1"]["kl"] == (None, None)
    assert wide_rows(torch.tensor([[0.0, 61.0], [0.0, 59.0], [-torch.inf, 0.0]])).tolist() == [True, False, False]


@pytest.mark.parametrize("damage", [{}, {"at": 3}, {"at": {"1": {"kl": [1, 1]}}}, {"at": {"1": {"tv": [1]}}}])
def test_errors_that_are_none(damage: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        Errors.from_json(damage and {"rows": 1, "wide": 0} | damage)


def test_better_settings() -> None:
    logits = rows("exponential", 3000, 0)
    codec = TopkCodec(task(3000), k=4, nodes=8)
    assert measure(codec, logits, codec.encode(logits)).worst > 1e-4
    text = better_settings(codec, logits, 1e-4)
    assert "codec: topk" in text
    assert "float32" in better_settings(codec, logits, 1e-9)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("topk", {"k": 0}, "k is 0"),
        ("topk", {"k": True}, "k is True"),
        ("topk", {"nodes": 15}, "nodes is 15; expected one of 4, 8, 12, 16, 24"),
        ("topk", {"dtype": "float16"}, "dtype: not a setting of codec topk, which has k, nodes, basis, companions"),
        ("sampled", {"draws": 256}, "draws is 256"),
        ("sampled", {"proposal": 0.0}, "proposal is 0.0"),
        ("dense", {"k": 3}, "k: not a setting of codec dense"),
        ("nonsense", {}, "codec is 'nonsense'"),
    ],
)
def test_wrong_settings(name: str, given: dict[str, object], expected: str) -> None:
    with pytest.raises(CodecError) as caught:
        make_codec(name, task(10), given)
    assert expected in str(caught.value)
    if name != "nonsense" and "not a setting" not in expected:
        whole = make_codec(name, task(10), {}).to_json() | given
        with pytest.raises(FormatError, match="not a"):
            codec_from_json(whole, task(10))


def test_codecs_of_distributions() -> None:
    for name in ("topk", "sampled"):
        with pytest.raises(CodecError, match="distributions over classes, not features"):
            make_codec(name, TaskSpec("features", (4,)), {})
