"""The hard part of distillation_loss, against float64: labels that are missing, mixed, smoothed and weighted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import targets

import softcache
from softcache.errors import TaskError
from softcache.tasks import TaskSpec

B, C, T = 7, 6, 3.0
MANY = TaskSpec("multilabel", (C,), "logits")
MAPS = TaskSpec("segmentation", (C, 2, 3), "logits", activation="softmax")


def kl_rows(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """T² KL of each row, float64."""
    p, q = (teacher.double() / T).softmax(1), (student / T).softmax(1)
    return T**2 * (p * (p / q).log()).sum(1)


def binary_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """T² KL of each class, float64."""
    p, q = (teacher.double() / T).sigmoid(), (student / T).sigmoid()
    return T**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())


def mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (values * weights).sum() / weights.sum() if weights.sum() else values.sum() * 0


def same(found: torch.Tensor, expected: torch.Tensor, student: torch.Tensor) -> None:
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (found, expected))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 9999), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.2]), st.booleans(), st.booleans()
)
def test_classes(seed: int, alpha: float, smoothing: float, weighted: bool, sampled: bool) -> None:
    """Missing labels, class weights, sample weights and smoothing, each part over its own rows."""
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(B, C, generator=g)
    student = torch.randn(B, C, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.randint(-1, C, (B,), generator=g)
    answered, kept = (torch.rand(2, B, generator=g) > 0.3).unbind()
    class_weights = torch.rand(C, generator=g) + 0.1 if weighted else torch.ones(C)
    sample_weights = torch.rand(B, generator=g) if sampled else torch.ones(B)
    found = softcache.distillation_loss(
        student,
        targets(teacher, answered),
        T,
        labels,
        alpha,
        mask=kept,
        ignore_index=-1,
        label_smoothing=smoothing,
        class_weights=class_weights if weighted else None,
        sample_weights=sample_weights if sampled else None,
    )
    there = answered & kept & (labels >= 0)
    right = labels.clamp(min=0)
    log_q = student.log_softmax(1)
    w = class_weights.double()
    hard = -(1 - smoothing) * w[right] * log_q[torch.arange(B), right] - smoothing / C * (w * log_q).sum(1)
    soft = mean(kl_rows(teacher, student), (answered & kept) * sample_weights.double())
    by_label = torch.where(there, w[right] * sample_weights, 0.0)
    hard_mean = torch.where(there, hard * sample_weights, 0.0).sum() / (by_label.sum() if by_label.sum() else 1.0)
    same(found, alpha * soft + (1 - alpha) * hard_mean, student)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([0.0, 0.6]), st.sampled_from([0.0, 0.2]))
def test_mixed_labels(seed: int, alpha: float, smoothing: float) -> None:
    """Distributions, as Mixup and CutMix make them; rows of NaN have none."""
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(B, C, generator=g)
    student = torch.randn(B, C, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.rand(B, C, generator=g).pow(3)
    labels = labels / labels.sum(1, keepdim=True)
    missing = torch.rand(B, generator=g) > 0.6
    found = softcache.distillation_loss(
        student, targets(teacher), T, labels.masked_fill(missing[:, None], torch.nan), alpha, label_smoothing=smoothing
    )
    smoothed = labels.double() * (1 - smoothing) + smoothing / C
    hard = mean(-(smoothed * student.log_softmax(1)).sum(1), (~missing).double())
    same(found, alpha * kl_rows(teacher, student).mean() + (1 - alpha) * hard, student)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([0.0, 0.6, 1.0]), st.booleans(), st.booleans())
def test_each_class(seed: int, alpha: float, by_class: bool, integers: bool) -> None:
    """Multilabel: labels that are missing for some classes, and masks of classes, for each part apart."""
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(B, C, generator=g)
    student = torch.randn(B, C, generator=g, dtype=torch.float64).requires_grad_()
    labels = (torch.rand(B, C, generator=g) > 0.5).float()
    missing = torch.rand(B, C, generator=g) > 0.7
    mask, label_mask = (torch.rand(2, B, C, generator=g) > 0.3).unbind()
    if not by_class:
        mask, label_mask = mask[:, 0], label_mask[:, 0]
    given_labels = labels.long().masked_fill(missing, -100) if integers else labels.masked_fill(missing, torch.nan)
    found = softcache.distillation_loss(
        student, targets(teacher, task=MANY), T, given_labels, alpha, mask=mask, label_mask=label_mask
    )
    soft_counts, hard_counts = (m if by_class else m[:, None].expand(B, C) for m in (mask, label_mask))
    hard_counts = hard_counts & ~missing
    q = student.sigmoid()
    hard = torch.where(hard_counts, -torch.where(labels > 0, q, 1 - q).log(), 0.0).sum(1)
    soft = torch.where(soft_counts, binary_kl(teacher, student), 0.0).sum(1)
    expected = alpha * soft.sum() / max(int(soft_counts.any(1).sum()), 1)
    same(found, expected + (1 - alpha) * hard.sum() / max(int(hard_counts.any(1).sum()), 1), student)


def test_maps_with_missing_labels_and_mixed_ones() -> None:
    teacher, student = torch.randn(2, C, 2, 3), torch.randn(2, C, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1, 255], [3, 4, 5]], [[255, 255, 255], [0, 0, 0]]])
    soft = targets(teacher, task=MAPS)
    found = softcache.distillation_loss(student, soft, T, labels, 0.4, ignore_index=255)
    log_q = student.log_softmax(1).movedim(1, -1)[labels < 255]
    hard = -log_q[torch.arange(8), labels[labels < 255]].mean()
    same(found, 0.4 * kl_rows(teacher, student).mean() + 0.6 * hard, student)
    mixed = torch.nn.functional.one_hot(labels.clamp(max=5), C).movedim(-1, 1).float()
    mixed = torch.where((labels < 255)[:, None], mixed, torch.nan)
    same(softcache.distillation_loss(student, soft, T, mixed, 0.4), found, student)


def test_labels_where_the_teacher_has_no_answer() -> None:
    """They count if label_mask says so, and only then."""
    teacher, student = torch.randn(4, C), torch.randn(4, C, dtype=torch.float64, requires_grad=True)
    labels, answered = torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, False])
    soft = targets(teacher, answered)
    hard = -student.log_softmax(1)[torch.arange(4), labels]
    of_soft = 0.5 * kl_rows(teacher, student)[:2].mean()
    same(softcache.distillation_loss(student, soft, T, labels, 0.5), of_soft + 0.5 * hard[:2].mean(), student)
    all_labels = torch.tensor([False, True, True, True])
    found = softcache.distillation_loss(student, soft, T, labels, 0.5, label_mask=all_labels)
    same(found, of_soft + 0.5 * hard[1:].mean(), student)
    same(softcache.distillation_loss(student, soft, T, labels, 0.0, label_mask=all_labels), hard[1:].mean(), student)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_touches_its_ends(alpha: float) -> None:
    """At its ends a schedule of alpha drops one part, whatever that part holds."""
    teacher, student = torch.randn(4, C), torch.randn(4, C, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, -100])
    expected = (
        kl_rows(teacher, student).mean() if alpha else -student.log_softmax(1)[torch.arange(3), labels[:3]].mean()
    )
    same(softcache.distillation_loss(student, targets(teacher), T, labels, alpha), expected, student)


def test_no_label_at_all() -> None:
    teacher, student = torch.randn(4, C), torch.randn(4, C, dtype=torch.float64, requires_grad=True)
    found = softcache.distillation_loss(student, targets(teacher), T, torch.full((4,), -100), 0.5)
    same(found, 0.5 * kl_rows(teacher, student).mean(), student)
    rows = softcache.distillation_loss(student, targets(teacher), T, torch.full((4,), -100), 0.5, "none")
    assert torch.allclose(rows.mean(), found)


@pytest.mark.parametrize(
    ("task", "change", "match"),
    [
        (
            None,
            {"labels": torch.tensor([0, -1, 2])},
            r"labels go from -1 to 2; expected 0 to 5, or ignore_index \(-100\)",
        ),
        (None, {"labels": torch.full((3, C), 0.3)}, "must add up to 1"),
        (None, {"labels": torch.eye(C)[:3] * 2}, "labels go from 0.0 to 2.0; expected 0 to 1"),
        (None, {"labels": torch.eye(C)[:3].index_fill(1, torch.tensor([1]), torch.nan)}, "all be NaN"),
        (None, {"labels": torch.ones(3, dtype=torch.bool)}, "labels are torch.bool"),
        (None, {"labels": torch.eye(C)[:3].long()}, "labels are torch.int64"),
        (MANY, {"labels": torch.full((3, C), 1.5)}, "expected 0 to 1, NaN where there is none"),
        (MANY, {"labels": torch.zeros(3, dtype=torch.int64)}, r"labels are torch.int64 \[3\]; expected numbers"),
        (None, {"mask": torch.ones(3, C, dtype=torch.bool)}, r"mask is torch.bool \[3, 6\]; expected bool \[3\]"),
        (MANY, {"mask": torch.ones(3, 2, dtype=torch.bool)}, r"expected bool \[3\] or \[3, 6\]"),
        (None, {"label_mask": torch.ones(3)}, "label_mask is torch.float32"),
        (None, {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        (None, {"class_weights": torch.ones(5)}, r"class_weights are torch.float32 \[5\]; .* \[6\]"),
        (None, {"class_weights": torch.ones(C, dtype=torch.int64)}, "class_weights are torch.int64"),
        (None, {"sample_weights": torch.ones(2)}, r"sample_weights are torch.float32 \[2\]; .* \[3\]"),
        (None, {"sample_weights": torch.tensor([1.0, -1.0, 1.0])}, "sample_weights must be finite"),
        (None, {"sample_weights": torch.tensor([1.0, torch.nan, 1.0])}, "sample_weights must be finite"),
        (None, {"num_items": (1, 2, 3)}, "num_items is"),
        (None, {"num_items": -4}, "num_items is -4; expected numbers of at least 0"),
        (None, {"num_items": 3, "reduction": "sum"}, "num_items is for reduction='mean'"),
        (None, {"alpha": None}, "alpha is None; expected a finite number"),
        (None, {"alpha": torch.tensor(1.5)}, r"alpha is 1.5; expected a weight in \[0, 1\]"),
        (None, {"lengths": torch.tensor([1, 1, 1])}, "lengths are for sequences"),
    ],
)
def test_wrong_labels(task: TaskSpec | None, change: dict, match: str) -> None:
    labels = torch.zeros(3, C) if task else torch.tensor([0, 1, 2])
    soft = targets(torch.randn(3, C), task=task) if task else targets(torch.randn(3, C))
    arguments = {"student_logits": torch.randn(3, C), "soft": soft, "labels": labels, "alpha": 0.5} | change
    with pytest.raises(TaskError, match=match):
        softcache.distillation_loss(**arguments)
    if "labels" in change:  # an invalid label is noticed even where it has no weight
        with pytest.raises(TaskError, match=match):
            softcache.distillation_loss(**(arguments | {"alpha": 1.0}))
