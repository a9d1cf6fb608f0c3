"""distillation_loss on stored classes and the rest, against the same formulas written out in float64."""

import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softcache
from softcache.codecs import Codec, DenseCodec, QuantizedCodec, SampledCodec, TopkCodec
from softcache.distill import by_rows
from softcache.distill.divergences import DIVERGENCES
from softcache.errors import TaskError
from softcache.soft.keys import KnownKeys
from softcache.tasks import TaskSpec

CLASSES = 60


def targets(codec: Codec, values: torch.Tensor, mask: torch.Tensor | None = None) -> softcache.SoftTargets:
    columns = codec.encode(values)
    if mask is not None:
        missing = codec.missing(len(values))
        columns = {n: torch.where(mask.view(-1, *(1,) * (c.ndim - 1)), c, missing[n]) for n, c in columns.items()}
    valid = torch.ones(len(values), dtype=torch.bool) if mask is None else mask
    keys = KnownKeys(np.arange(len(values)), np.zeros(len(values), np.int32))
    return softcache.SoftTargets(codec.decoder, columns, valid, keys)


def task(classes: int = CLASSES, **options: object) -> TaskSpec:
    return TaskSpec("classification", (classes,), "logits", **options)  # type: ignore[arg-type]


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q.log()), 0.0).sum(1)


REFERENCES = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2,
}


@settings(max_examples=80)
@given(
    st.integers(0, 10_000),
    st.floats(0.5, 20),
    st.sampled_from([1, 5, 59, 60, 64]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from(sorted(DIVERGENCES)),
    st.booleans(),
)
def test_buckets(seed: int, temperature: float, k: int, alpha: float, divergence: str, per_row: bool) -> None:
    """Value and gradient are those of the divergence between k + 1 buckets."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(5, CLASSES, generator=generator)
    student = (3 * torch.randn(5, CLASSES, generator=generator)).double().requires_grad_()
    labels = torch.randint(CLASSES, (5,), generator=generator)
    mask = torch.tensor([True, True, False, True, True])
    soft = targets(TopkCodec(task(), k=k), values)
    t = torch.full((5,), temperature) * (torch.linspace(1, 1.5, 5) if per_row else 1.0)
    found = softcache.distillation_loss(
        student,
        soft,
        t if per_row else temperature,
        None if alpha == 1 else labels,
        alpha,
        divergence=divergence,
        mask=mask,
    )
    sparse = soft.sparse_log_probs(t)
    p = sparse.log_probs.double().exp()
    q_all = (student / t.double()[:, None]).softmax(1)
    q = q_all.gather(1, sparse.ids)
    if k < CLASSES:
        p = torch.cat([p, sparse.log_tail.double().exp()[:, None]], 1)
        q = torch.cat([q, q_all.scatter(1, sparse.ids, 0.0).sum(1, keepdim=True)], 1)
    hard = -student.log_softmax(1).gather(1, labels[:, None])[:, 0]
    rows = alpha * t.double() ** 2 * REFERENCES[divergence](p, q) + (1 - alpha) * hard
    expected = rows[mask].mean()
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(found, student)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.floats(0.5, 20), st.floats(0, 30), st.sampled_from(sorted(DIVERGENCES)))
def test_never_negative(seed: int, temperature: float, lead: float, divergence: str) -> None:
    """Also where the student is nearly the teacher, and where one class leads by so much that the rest vanishes."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(4, CLASSES, generator=generator)
    values[:, 0] += lead
    soft = targets(TopkCodec(task(), k=8), values)
    for student in (values, values + 1e-3 * torch.randn(4, CLASSES, generator=generator), 0 * values, -values):
        student = student.clone().requires_grad_()
        losses = softcache.distillation_loss(student, soft, temperature, reduction="none", divergence=divergence)
        assert (losses >= -2e-6 * temperature**2).all()
        losses.sum().backward()
        assert torch.isfinite(student.grad).all()


def test_a_large_lead_keeps_the_tail() -> None:
    """With the stored classes 25 nats ahead, log q of the rest is still right: one less their sum would be 0."""
    logits = torch.zeros(1, CLASSES, dtype=torch.float64)
    logits[0, :8] = 25 + torch.arange(8.0)
    teacher = torch.randn(1, CLASSES)
    teacher[0, :8] += 10
    for dtype in (torch.float32, torch.float64):
        student = logits.to(dtype).requires_grad_()
        soft = targets(TopkCodec(task(), k=8), teacher)
        loss = softcache.distillation_loss(student, soft)
        sparse = soft.sparse_log_probs()
        log_q = logits.log_softmax(1)
        rest = log_q.scatter(1, sparse.ids, -torch.inf).logsumexp(1)
        p = sparse.log_probs.double().exp()
        expected = (p * (sparse.log_probs - log_q.gather(1, sparse.ids))).sum(1)
        expected = expected + sparse.log_tail.double().exp() * (sparse.log_tail - rest)
        assert torch.allclose(loss.double(), expected, rtol=1e-5)


def test_whole_distributions_agree() -> None:
    """Stored whole, a distribution gives the dense target's loss, whatever the codec."""
    values, student = 3 * torch.randn(6, CLASSES), torch.randn(6, CLASSES)
    dense = targets(DenseCodec(task(), "float32"), values)
    for divergence in DIVERGENCES:
        expected = softcache.distillation_loss(student, dense, 2.0, divergence=divergence)
        for codec in (TopkCodec(task(), k=CLASSES), QuantizedCodec(task())):
            found = softcache.distillation_loss(student, targets(codec, values), 2.0, divergence=divergence)
            assert torch.allclose(found, expected, rtol=1e-2, atol=1e-3)


def test_infinities() -> None:
    """Classes that teacher and student both rule out count for nothing; one's alone are infinitely far."""
    values, student = torch.randn(2, 6), torch.randn(2, 6)
    values[:, 4] = student[:, 4] = -torch.inf
    soft = targets(DenseCodec(task(6, allow_masked=True), "float32"), values)
    for divergence in DIVERGENCES:
        student = student.detach().requires_grad_()
        loss = softcache.distillation_loss(student, soft, 2.0, divergence=divergence)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()
    free = torch.zeros(2, 6)
    assert softcache.distillation_loss(free, soft, divergence="reverse_kl") == torch.inf
    assert torch.isfinite(softcache.distillation_loss(free, soft, divergence="jensen_shannon"))


def test_rows_without_an_answer_do_not_count() -> None:
    values = torch.randn(4, CLASSES)
    mask = torch.tensor([True, False, True, False])
    for codec in (TopkCodec(task(), k=8), SampledCodec(task()), QuantizedCodec(task())):
        student = torch.randn(4, CLASSES, requires_grad=True)
        loss = softcache.distillation_loss(student, targets(codec, values, mask), 2.0)
        alone = softcache.distillation_loss(student[mask], targets(codec, values[mask]), 2.0)
        assert torch.allclose(loss, alone)
        loss.backward()
        assert torch.isfinite(student.grad).all()
        assert torch.equal(student.grad[~mask], torch.zeros(2, CLASSES))
        assert targets(codec, values, mask).log_probs(2.0)[~mask].isnan().all()


def test_half_precision_logits() -> None:
    """The gradient comes back in the logits' dtype, worked out in float32."""
    values = torch.randn(4, CLASSES)
    student = torch.randn(4, CLASSES).bfloat16().requires_grad_()
    soft = targets(TopkCodec(task(), k=8), values)
    loss = softcache.distillation_loss(student, soft, 2.0)
    loss.backward()
    precise = student.detach().float().requires_grad_()
    softcache.distillation_loss(precise, soft, 2.0).backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == torch.bfloat16
    assert torch.allclose(student.grad.float(), precise.grad, atol=1e-3)


def test_float16_gradients_are_scaled_before_they_are_rounded() -> None:
    """A GradScaler's scale is beyond float16, and what it saves is below."""
    scale, rows = 65536.0, 4096
    soft = targets(DenseCodec(task()), torch.randn(4, CLASSES).repeat(rows // 4, 1))
    student = torch.randn(4, CLASSES).half().repeat(rows // 4, 1).requires_grad_()
    (scale * softcache.distillation_loss(student, soft, 2.0)).backward()
    precise = student.detach().double().requires_grad_()
    (scale * softcache.distillation_loss(precise, soft, 2.0)).backward()
    assert student.grad.dtype == torch.float16
    assert torch.allclose(student.grad.double(), precise.grad, rtol=1e-3, atol=1e-5)


def test_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values, t = torch.randn(7, CLASSES), torch.linspace(0.6, 5, 7)
    soft, labels = targets(TopkCodec(task(), k=8), values), torch.arange(7)
    student = torch.randn(7, CLASSES, requires_grad=True)
    found = []
    for numbers in (1, 3 * CLASSES, 2**21):
        monkeypatch.setattr(by_rows, "_CPU_NUMBERS", numbers)
        loss = softcache.distillation_loss(student, soft, t, labels, 0.7)
        found.append((loss, torch.autograd.grad(loss, student)[0]))
    for loss, gradient in found[1:]:
        assert torch.allclose(loss, found[0][0])
        assert torch.allclose(gradient, found[0][1], atol=1e-7)


def test_wrong_use() -> None:
    sampled = targets(SampledCodec(task()), torch.randn(2, CLASSES))
    student = torch.randn(2, CLASSES)
    with pytest.raises(TaskError, match="sampled classes give forward_kl"):
        softcache.distillation_loss(student, sampled, divergence="reverse_kl")
    with pytest.raises(TaskError, match="divergence is 'kl'; expected one of forward_kl"):
        softcache.distillation_loss(student, sampled, divergence="kl")
    with pytest.raises(TaskError, match=r"mask is .*; expected bool \[2\]"):
        softcache.distillation_loss(student, sampled, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(TaskError, match=r"answers from T = 0\.5"):
        softcache.distillation_loss(student, targets(TopkCodec(task()), student), 0.4)
    with pytest.raises(TaskError, match="value for every class"):
        targets(DenseCodec(task()), student).sparse_log_probs()
    many = targets(TopkCodec(task(262_144), companions=False), torch.zeros(1, 262_144))[[0] * 5000]
    with pytest.raises(TaskError, match=r"would take 4\.9 GiB; take fewer rows"):
        many.log_probs(2.0)


MEMORY = """
    import resource, sys, torch, torch.nn.functional as F, softcache, numpy as np
    from softcache.codecs import TopkCodec
    from softcache.soft.keys import KnownKeys
    from softcache.tasks import TaskSpec

    rows, classes = int(sys.argv[2]), 150_000
    codec = TopkCodec(TaskSpec("classification", (classes,), "logits"), k=64)
    columns = codec.encode(torch.randn(8, classes))
    columns = {name: c.repeat(rows // 8, *(1,) * (c.ndim - 1)) for name, c in columns.items()}
    keys = KnownKeys(np.arange(rows), np.zeros(rows, np.int32))
    soft = softcache.SoftTargets(codec.decoder, columns, torch.ones(rows, dtype=torch.bool), keys)
    student = torch.randn(rows, classes, requires_grad=True)
    labels = torch.randint(classes, (rows,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.argv[1] == "cross_entropy":
        F.cross_entropy(student, labels).backward()
    else:
        softcache.distillation_loss(student, soft, 2.0, labels, 0.5).backward()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * resource_unit + student.nbytes)
"""


def peak(what: str, rows: int) -> int:
    """Return the peak bytes of one loss and backward, the student's logits included."""
    unit = 1 if sys.platform == "darwin" else 1024
    code = textwrap.dedent(MEMORY).replace("resource_unit", str(unit))
    done = subprocess.run([sys.executable, "-c", code, what, str(rows)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory(many: Callable[[int, int], int]) -> None:
    """Both parts together take at most one and a half times what cross-entropy takes alone, at 150,000 classes."""
    ours, theirs = (peak(what, many(512, 2048)) for what in ("distillation", "cross_entropy"))
    print(f"\npeak {ours / 2**30:.2f} GiB, cross-entropy {theirs / 2**30:.2f} GiB")
    assert ours <= 1.5 * theirs
