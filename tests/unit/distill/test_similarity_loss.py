"""similarity_loss against eqs. 1 to 3 of Tung and Mori 2019 in float64."""

import numpy as np
import pytest
import torch
from feature_targets import features, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

import softcache
from softcache.codecs import DenseCodec
from softcache.errors import TaskError
from softcache.soft.keys import KnownKeys
from softcache.tasks import TaskSpec

SHAPES = st.sampled_from([(4,), (3, 2), (2, 3, 3)])


def written_out(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """||G_T - G_S||² of features [b, ...], in float64."""
    matrices = []
    for given_features in (ours, theirs):
        rows = [row.reshape(-1) for row in given_features]
        products = [[a @ b for b in rows] for a in rows]
        norms = [torch.sqrt(sum((p**2 for p in row), ours.new_zeros(()))) for row in products]
        matrices.append(torch.stack([torch.stack(row) / n for row, n in zip(products, norms, strict=True)]))
    return ((matrices[1] - matrices[0]) ** 2).sum()


@settings(max_examples=80)
@given(
    st.integers(0, 10_000),
    SHAPES,
    SHAPES,
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.sampled_from(["mean", "sum"]),
)
def test_formula(
    seed: int,
    student_shape: tuple[int, ...],
    teacher_shape: tuple[int, ...],
    dtype: torch.dtype,
    answered: list[bool],
    reduction: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor(answered)
    teacher = torch.randn(len(mask), *teacher_shape, generator=generator)
    student = torch.randn(len(mask), *student_shape, generator=generator).to(dtype)
    student[~mask] = torch.nan
    student.requires_grad_()
    loss = softcache.similarity_loss(student, features(teacher, mask), reduction=reduction)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (found,) = torch.autograd.grad(loss, student)
    assert (found[~mask] == 0).all()
    if not mask.any():
        assert float(loss.detach()) == 0
        return
    ours = student.detach()[mask].double().requires_grad_()
    wanted = written_out(ours, teacher[mask].double())
    if reduction == "mean":
        wanted = wanted / int(mask.sum()) ** 2
    assert torch.allclose(loss.double(), wanted, rtol=tolerance(dtype), atol=1e-6)
    (gradient,) = torch.autograd.grad(wanted, ours)
    close = max(tolerance(dtype), 2 * torch.finfo(dtype).eps)
    assert torch.allclose(found[mask].double(), gradient, rtol=close, atol=close)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e10, 1e30])
def test_similarities_have_no_scale(scale: float) -> None:
    torch.manual_seed(0)
    teacher, start = torch.randn(4, 6), torch.randn(4, 3)
    student = (start * scale).requires_grad_()
    loss = softcache.similarity_loss(student, features(teacher * scale), reduction="sum")
    ours = start.double().requires_grad_()
    wanted = written_out(ours, teacher.double())
    assert torch.allclose(loss.double(), wanted, rtol=1e-5)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found.double() * scale, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_zeros(dtype: torch.dtype) -> None:
    """They are similar to nothing: a row of zeros. Others can become more similar to them."""
    torch.manual_seed(0)
    teacher = torch.randn(4, 5)
    student = torch.randn(4, 3, dtype=dtype)
    teacher[1], student[1], student[2] = 0, 0, 0
    student.requires_grad_()
    loss = softcache.similarity_loss(student, features(teacher), reduction="sum")

    def matrix(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([rows @ a / (rows @ a).square().sum().sqrt() if a.any() else torch.zeros(4) for a in rows])

    ours = student.detach().double().requires_grad_()
    wanted = (matrix(ours) - matrix(teacher.double())).square().sum()
    assert torch.allclose(loss.double(), wanted, rtol=1e-5)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found.double(), gradient, rtol=1e-4, atol=1e-6)
    assert gradient[2].any()


def test_a_batch_of_zeros() -> None:
    student = torch.zeros(3, 2, requires_grad=True)
    loss = softcache.similarity_loss(student, features(torch.eye(3)), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 3
    assert torch.equal(gradient, torch.zeros(3, 2))


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    student, soft = torch.randn(8, 16), features(torch.randn(8, 9))
    with torch.autocast("cpu", torch.bfloat16):
        inside = softcache.similarity_loss(student, soft)
    assert torch.equal(inside, softcache.similarity_loss(student, soft))


def test_numbers_that_are_not_finite_are_not_hidden() -> None:
    for bad in (torch.nan, torch.inf):
        student = torch.ones(3, 2)
        student[1, 0] = bad
        assert softcache.similarity_loss(student, features(torch.ones(3, 4))).isnan()


def test_no_row() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    loss = softcache.similarity_loss(student, features(torch.zeros(0, 5)))
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0
    assert gradient.shape == (0, 3)


@pytest.mark.parametrize(
    ("student", "reduction", "match"),
    [
        (torch.zeros(3, 2), "none", "compares the rows of a batch with each other"),
        (torch.zeros(3, 2), "avg", "reduction is 'avg'; expected mean or sum"),
        (torch.zeros(2, 2), "mean", r"are torch.float32 \[2, 2\]; expected floating-point values \[3, ...\]"),
        (torch.zeros(3), "mean", "a row for each of the teacher's"),
        (torch.zeros(3, 0), "mean", "expected floating-point values"),
        (torch.zeros(3, 2, dtype=torch.int64), "mean", "are torch.int64"),
    ],
)
def test_wrong_use(student: torch.Tensor, reduction: str, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        softcache.similarity_loss(student, features(torch.zeros(3, 4)), reduction=reduction)


def test_wrong_targets() -> None:
    with pytest.raises(TaskError, match=r"a regression target has no features .* use softcache.regression_loss"):
        softcache.similarity_loss(torch.zeros(3, 2), features(torch.zeros(3, 4), kind="regression"))
    decoder = DenseCodec(TaskSpec("classification", (4,), "logits")).decoder
    keys = KnownKeys(np.arange(3), np.zeros(3, np.int32))
    classes = softcache.SoftTargets(decoder, {"values": torch.zeros(3, 4)}, torch.ones(3, dtype=torch.bool), keys)
    with pytest.raises(TaskError, match=r"use softcache.distillation_loss"):
        softcache.similarity_loss(torch.zeros(3, 2), classes)
