"""distillation_loss against its formula in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softcache
from softcache.codecs import DenseCodec
from softcache.errors import TaskError
from softcache.soft.keys import KnownKeys
from softcache.tasks import TaskSpec

TASK = TaskSpec("classification", (6,), "logits")


def targets(values: torch.Tensor, mask: torch.Tensor | None = None, task: TaskSpec = TASK) -> softcache.SoftTargets:
    rows = len(values)
    valid = torch.ones(rows, dtype=torch.bool) if mask is None else mask
    stored = torch.where(valid.view(-1, *(1,) * (values.ndim - 1)), values, torch.nan)
    keys = KnownKeys(np.arange(rows), np.zeros(rows, np.int32))
    return softcache.SoftTargets(DenseCodec(task, "float32").decoder, {"values": stored}, valid, keys)


def reference(
    student: torch.Tensor, teacher: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Rows of the loss, written out from its definition in float64."""
    z, s = teacher.double() / t[:, None], student.double() / t[:, None]
    p = z.exp() / z.exp().sum(1, keepdim=True)
    q = s.exp() / s.exp().sum(1, keepdim=True)
    kl = (p * (p / q).log()).sum(1)
    hard = -(student.double().softmax(1).gather(1, labels[:, None])[:, 0]).log()
    return alpha * t**2 * kl + (1 - alpha) * hard


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.5, 20), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_formula(seed: int, temperature: float, alpha: float, per_row: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (3 * torch.randn(5, 6, generator=generator) for _ in range(2))
    labels = torch.randint(6, (5,), generator=generator)
    t = torch.full((5,), temperature, dtype=torch.float64)
    if per_row:
        t = t * torch.linspace(1, 1.5, 5)
    student.requires_grad_()
    rows = softcache.distillation_loss(
        student,
        targets(teacher),
        t if per_row else temperature,
        None if alpha == 1 else labels,
        alpha,
        reduction="none",
    )
    expected = reference(student, teacher, t, labels, alpha)
    assert torch.allclose(rows.double(), expected, rtol=2e-4, atol=2e-4)
    (grad,) = torch.autograd.grad(rows.sum(), student)
    (expected_grad,) = torch.autograd.grad(expected.sum(), student)
    assert torch.allclose(grad, expected_grad, rtol=1e-3, atol=1e-4)


def test_masked_rows_do_not_count() -> None:
    teacher, student = torch.randn(4, 6), torch.randn(4, 6, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    mask = torch.tensor([True, False, True, False])
    soft = targets(teacher, mask)
    some = softcache.distillation_loss(student, soft, 2.0, labels, 0.5)
    kept = softcache.distillation_loss(student[mask], targets(teacher[mask]), 2.0, labels[mask], 0.5)
    assert torch.allclose(some, kept)
    some.backward()
    assert student.grad is not None
    assert torch.equal(student.grad[~mask], torch.zeros(2, 6))
    assert torch.isfinite(student.grad).all()
    rows = softcache.distillation_loss(student, soft, 2.0, labels, 0.5, reduction="none")
    assert torch.equal(rows[~mask], torch.zeros(2))
    assert torch.allclose(rows.sum(), softcache.distillation_loss(student, soft, 2.0, labels, 0.5, reduction="sum"))


def test_no_row_with_an_answer() -> None:
    student = torch.randn(2, 6, requires_grad=True)
    loss = softcache.distillation_loss(student, targets(torch.randn(2, 6), torch.zeros(2, dtype=torch.bool)), 2.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros(2, 6))


def test_ruled_out_classes() -> None:
    """A class at -Inf has p = 0 and adds nothing, whatever the student says."""
    task = TaskSpec("classification", (6,), "logits", allow_masked=True)
    teacher = torch.randn(3, 6)
    teacher[:, 4] = -torch.inf
    student = torch.randn(3, 6, requires_grad=True)
    loss = softcache.distillation_loss(student, targets(teacher, task=task), 3.0)
    p = (teacher.double() / 3).softmax(1)
    q = (student.double() / 3).log_softmax(1)
    terms = torch.where(p > 0, p * (p.log() - q), 0.0)
    assert torch.allclose(loss.double(), 9 * terms.sum(1).mean(), rtol=1e-4)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"alpha": 0.5}, "no labels"),
        ({"alpha": 1.5}, "weight"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": torch.ones(2)}, "shape"),
        ({"temperature": torch.tensor(2.0, requires_grad=True)}, r"temperature would get no gradient.*detach"),
        ({"sample_weights": torch.ones(3, requires_grad=True)}, "sample_weights would get no gradient"),
        ({"reduction": "avg"}, "reduction"),
        ({"labels": torch.tensor([0, 1, 6]), "alpha": 0.5}, "labels go"),
        ({"labels": torch.tensor([0, 1]), "alpha": 0.5}, "labels are"),
        ({"labels": torch.zeros(3), "alpha": 0.5}, "labels are"),
        ({"student_logits": torch.randn(3, 5)}, "nothing is broadcast"),
        ({"student_logits": torch.randn(1, 6)}, "nothing is broadcast"),
        ({"student_logits": torch.randn(6)}, "nothing is broadcast"),
    ],
)
def test_wrong_use(change: dict, match: str) -> None:
    arguments = {"student_logits": torch.randn(3, 6), "soft": targets(torch.randn(3, 6)), "temperature": 2.0} | change
    with pytest.raises(TaskError, match=match):
        softcache.distillation_loss(**arguments)


def test_features_have_no_loss() -> None:
    soft = targets(torch.randn(3, 6), task=TaskSpec("features", (6,)))
    with pytest.raises(TaskError, match="regression_loss"):
        softcache.distillation_loss(torch.randn(3, 6), soft, 2.0)


def test_a_number_of_items_that_is_none_gives_no_loss() -> None:
    soft = targets(torch.randn(3, 6))
    assert softcache.distillation_loss(torch.randn(3, 6), soft, 2.0, num_items=torch.tensor(torch.nan)).isnan()
