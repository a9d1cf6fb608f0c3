"""DecoupledKL and TailAwareKL, against their definitions in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compressed_losses import targets as compressed
from test_losses import targets

import softcache
from softcache.codecs import SampledCodec, TopkCodec
from softcache.errors import TaskError
from softcache.tasks import TaskSpec

B, C = 6, 9


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)


def inputs(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(B, C, generator=g, dtype=torch.float64).requires_grad_()
    return spread * torch.randn(B, C, generator=g), student, torch.randint(C, (B,), generator=g)


def same(found: torch.Tensor, expected: torch.Tensor, student: torch.Tensor) -> None:
    assert torch.allclose(found, expected, rtol=2e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (found, expected))
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([1.0, 4.0]), st.sampled_from([(1.0, 8.0), (0.5, 0.0), (1.0, 1.0)]))
def test_decoupled(seed: int, t: float, weights: tuple[float, float]) -> None:
    """Zhao et al. 2022, eqs. 2 to 7, written out."""
    teacher, student, labels = inputs(seed, 2.0)
    found = softcache.distillation_loss(
        student,
        targets(teacher, task=TaskSpec("classification", (C,), "logits")),
        t,
        labels,
        divergence=softcache.DecoupledKL(*weights),
    )
    p, q = (teacher.double() / t).softmax(1), (student / t).softmax(1)
    right = torch.nn.functional.one_hot(labels, C).bool()
    binary = [torch.stack([x[right], 1 - x[right]], 1) for x in (p, q)]
    among = [(x[~right].view(B, C - 1)) / x[~right].view(B, C - 1).sum(1, keepdim=True) for x in (p, q)]
    same(found, t**2 * (weights[0] * kl(*binary) + weights[1] * kl(*among)).mean(), student)


def test_decoupled_is_kl_with_its_own_weights() -> None:
    """KL = KL of (right, others) + (1 - p of the right) * KL among the others: with these weights nothing changes."""
    teacher, student, labels = inputs(3, 1.0)
    soft = targets(teacher, task=TaskSpec("classification", (C,), "logits"))
    p = teacher.double().softmax(1)[torch.arange(B), labels]
    each = [
        softcache.distillation_loss(student, soft, 1.0, labels, reduction="none", divergence=d)
        for d in (softcache.DecoupledKL(1.0, 0.0), softcache.DecoupledKL(0.0, 1.0), "forward_kl")
    ]
    assert torch.allclose(each[0] + (1 - p) * each[1], each[2], rtol=1e-5)


def test_decoupled_leaves_rows_without_a_label_out() -> None:
    teacher, student, labels = inputs(5, 1.0)
    task = TaskSpec("classification", (C,), "logits")
    some = labels.clone()
    some[2:4] = -100
    kept = some >= 0
    loss = softcache.distillation_loss(
        student, targets(teacher, task=task), 2.0, some, divergence=softcache.DecoupledKL()
    )
    same(
        loss,
        softcache.distillation_loss(
            student[kept], targets(teacher[kept], task=task), 2.0, labels[kept], divergence=softcache.DecoupledKL()
        ),
        student,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([1.0, 4.0]), st.integers(1, C - 1), st.sampled_from([0.0, 0.5, 2.0]))
def test_tail_aware(seed: int, t: float, k: int, beta: float) -> None:
    teacher, student, _ = inputs(seed, 2.0)
    soft = targets(teacher, task=TaskSpec("classification", (C,), "logits"))
    found = softcache.distillation_loss(student, soft, t, divergence=softcache.TailAwareKL(k, beta))
    order = teacher.argsort(1, descending=True)
    p, q = ((x / t).softmax(1).gather(1, order) for x in (teacher.double(), student))
    buckets = [torch.cat([x[:, :k], x[:, k:].sum(1, keepdim=True)], 1) for x in (p, q)]
    tails = [x[:, k:] / x[:, k:].sum(1, keepdim=True) for x in (p, q)]
    same(found, t**2 * (kl(*buckets) + beta * kl(*tails)).mean(), student)


def test_tail_aware_of_compressed_targets() -> None:
    """With a basis the tail has a shape; its mass alone is not enough."""
    values = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    task = TaskSpec("classification", (40,), "logits")
    tail_aware = softcache.TailAwareKL(4, 1.0)
    with pytest.raises(TaskError, match="needs the shape of the teacher's tail"):
        softcache.distillation_loss(
            torch.zeros(200, 40), compressed(TopkCodec(task, k=8), values), divergence=tail_aware
        )


@pytest.mark.parametrize("extreme", ["certain", "ruled out"])
def test_certain_teachers(extreme: str) -> None:
    """Nothing becomes NaN where the others have no probability."""
    teacher = torch.full((2, C), -200.0 if extreme == "certain" else -torch.inf)
    teacher[:, 3] = 0
    soft = targets(teacher, task=TaskSpec("classification", (C,), "logits", allow_masked=True))
    for divergence in (softcache.DecoupledKL(), softcache.TailAwareKL(1, 1.0)):
        student = torch.randn(2, C, requires_grad=True)
        loss = softcache.distillation_loss(student, soft, labels=torch.tensor([3, 3]), divergence=divergence)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()
        if extreme == "ruled out":
            assert torch.allclose(loss, -student.log_softmax(1)[:, 3].mean())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: softcache.DecoupledKL(-1.0), "target is -1.0"),
        (lambda: softcache.DecoupledKL(1.0, float("nan")), "others is nan"),
        (lambda: softcache.TailAwareKL(0, 1.0), "k is 0"),
        (lambda: softcache.TailAwareKL(2, float("inf")), "beta is inf"),
    ],
)
def test_wrong_weights(make: object, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        make()  # type: ignore[operator]


def test_wrong_use() -> None:
    teacher, student, labels = inputs(0, 1.0)
    task = TaskSpec("classification", (C,), "logits")
    soft = targets(teacher, task=task)
    cases = [
        (soft, {"divergence": softcache.TailAwareKL(C, 1.0)}, "no class is left for the tail"),
        (soft, {"divergence": softcache.DecoupledKL()}, "no labels"),
        (soft, {"divergence": softcache.DecoupledKL(), "labels": torch.eye(C)[labels]}, "one right class"),
        (
            targets(teacher, task=TaskSpec("multilabel", (C,), "logits")),
            {"divergence": softcache.DecoupledKL()},
            "one distribution",
        ),
        (
            compressed(SampledCodec(task, draws=4), teacher),
            {"divergence": softcache.DecoupledKL(), "labels": labels},
            "every class",
        ),
        (soft, {"divergence": "kl"}, "softcache.DecoupledKL"),
        (soft, {"tail": "none"}, "tail is 'none'"),
    ]
    for soft_targets, change, match in cases:
        options = {"labels": torch.zeros(B, C)} | change if soft_targets.task.activation == "sigmoid" else change
        with pytest.raises(TaskError, match=match):
            softcache.distillation_loss(student, soft_targets, **options)


def test_a_label_mask_is_of_the_hard_part_alone() -> None:
    teacher, student, labels = inputs(5, 1.0)
    soft = targets(teacher, task=TaskSpec("classification", (C,), "logits"))
    options = {"temperature": 2.0, "labels": labels, "divergence": softcache.DecoupledKL()}
    mask = torch.arange(B) < 2
    found = softcache.distillation_loss(student, soft, alpha=1.0, label_mask=mask, **options)
    assert torch.equal(found, softcache.distillation_loss(student, soft, alpha=1.0, **options))
    both = softcache.distillation_loss(student, soft, alpha=0.6, label_mask=mask, **options)
    hard = torch.nn.functional.cross_entropy(student[mask], labels[mask])
    same(both, 0.6 * found + 0.4 * hard, student)
