"""regression_loss against its formulas in float64: values, gradients, rows without an answer, resized maps."""

import pytest
import torch
from feature_targets import features, resize_by_hand, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

import softcache
from softcache.errors import TaskError
from softcache.tasks import TaskSpec

DISTANCES = ["squared", "absolute", "cosine"]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def row_loss(ours: torch.Tensor, theirs: torch.Tensor, variance: torch.Tensor, distance: str) -> torch.Tensor:
    """The loss of one row [C, ...], written out in float64."""
    if distance != "cosine":
        apart = ours - theirs
        each = apart**2 / variance if distance == "squared" else torch.sqrt(apart**2)
        return each.sum() / apart.numel()
    places = zip(ours.flatten(1).T, theirs.flatten(1).T, strict=True) if ours.ndim > 1 else [(ours, theirs)]
    cosines = [(u @ v) / torch.sqrt((u @ u) * (v @ v)) for u, v in places]
    return 1 - torch.stack(cosines).sum() / len(cosines)


@settings(max_examples=80)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(4,), (3, 2), (3, 2, 4)]),
    st.sampled_from(DISTANCES),
    st.sampled_from(DTYPES),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from(["mean", "sum", "none"]),
    st.booleans(),
)
def test_formula(
    seed: int,
    shape: tuple[int, ...],
    distance: str,
    dtype: torch.dtype,
    answered: list[bool],
    reduction: str,
    has_variance: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask, size = torch.tensor(answered), (len(answered), *shape)
    teacher, start = (torch.randn(size, generator=generator) for _ in range(2))
    variance = torch.rand(size, generator=generator) + 0.1
    student = start.to(dtype)
    student[~mask] = torch.nan
    student.requires_grad_()
    soft = features(teacher, mask, variance if has_variance else None)
    loss = softcache.regression_loss(student, soft, distance, reduction)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    ours = student.detach().double().requires_grad_()
    by = variance.double() if has_variance else torch.ones(size, dtype=torch.float64)
    rows = {i: row_loss(ours[i], teacher[i].double(), by[i], distance) for i in mask.nonzero()[:, 0].tolist()}
    each = torch.stack([rows.get(i, ours.new_zeros(())) for i in range(len(mask))])
    wanted = {"none": each, "sum": each.sum(), "mean": each.sum() / max(len(rows), 1)}[reduction]
    assert torch.allclose(loss.double(), wanted, rtol=tolerance(dtype), atol=tolerance(dtype))
    (found,) = torch.autograd.grad(loss.sum(), student)
    assert (found[~mask] == 0).all()
    if rows:
        (gradient,) = torch.autograd.grad(wanted.sum(), ours)
        close = max(tolerance(dtype), 2 * torch.finfo(dtype).eps)
        assert torch.allclose(found[mask].double(), gradient[mask], rtol=close, atol=close)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e10, 1e25])
def test_a_cosine_has_no_scale(scale: float) -> None:
    teacher = torch.tensor([[1.0, 2.0, 3.0]])
    student = torch.tensor([[3.0, -1.0, 2.0]]) * scale
    student.requires_grad_()
    loss = softcache.regression_loss(student, features(teacher * scale), "cosine")
    ours = student.detach().double().requires_grad_()
    wanted = row_loss(ours[0], teacher[0].double(), torch.ones(3), "cosine")
    assert torch.allclose(loss.double(), wanted, rtol=1e-6)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found.double() * scale, gradient * scale, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cosine_with_zeros(dtype: torch.dtype) -> None:
    """Features after a ReLU can all be 0: then the cosine is 0, and no gradient explodes."""
    student = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    soft = features(torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))
    losses = softcache.regression_loss(student, soft, "cosine", "none")
    assert torch.equal(losses, torch.ones(3, dtype=dtype))
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["bilinear", "area"]),
    st.sampled_from(DISTANCES),
)
def test_resized_maps(seed: int, old: tuple[int, int], new: tuple[int, int], how: str, distance: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(3, 2, *new, generator=generator)
    mask = torch.tensor([True, False, True])
    student = torch.randn(3, 2, *old, generator=generator, dtype=torch.float64)
    student[1] = torch.inf
    student.requires_grad_()
    loss = softcache.regression_loss(student, features(teacher, mask), distance, resize=how)
    ours = student.detach()[mask].requires_grad_()
    same = resize_by_hand(ours, new, how) if old != new else ours
    wanted = sum(row_loss(u, v.double(), torch.ones(1), distance) for u, v in zip(same, teacher[mask], strict=True)) / 2
    assert torch.allclose(loss, wanted, rtol=1e-9, atol=1e-9)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found[mask], gradient, rtol=1e-7, atol=1e-9)
    assert (found[1] == 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rows", [0, 2])
def test_no_row_with_an_answer(rows: int, distance: str) -> None:
    mask = torch.zeros(rows, dtype=torch.bool)
    student = torch.full((rows, 2, 5, 5), torch.nan, requires_grad=True)
    loss = softcache.regression_loss(student, features(torch.ones(rows, 2, 3, 3), mask), distance, resize="area")
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0
    assert torch.equal(gradient, torch.zeros(rows, 2, 5, 5))


@pytest.mark.parametrize(
    ("student", "shape", "settings", "match"),
    [
        ((3, 2, 5, 5), (2, 3, 3), {}, "5 x 5, the teacher's 3 x 3; give resize='bilinear'"),
        ((3, 2, 5, 5), (2, 3, 3), {"resize": "nearest"}, "resize is 'nearest'; expected one of bilinear, area"),
        ((3, 4, 3, 3), (2, 3, 3), {"resize": "area"}, r"nothing is broadcast\. softcache.Projection"),
        ((3, 2, 0, 5), (2, 3, 3), {"resize": "area"}, "expected floating-point values"),
        ((3, 2), (2,), {"resize": "area"}, r"is for maps \[C, H, W\], and the target's shape is \[2\]"),
        ((3, 2, 4), (2, 3), {}, "nothing is broadcast"),
        ((3, 1), (2,), {}, "nothing is broadcast"),
        ((1, 2), (2,), {}, "nothing is broadcast"),
        ((3, 2), (2,), {"distance": "euclidean"}, "distance is 'euclidean'; expected one of squared"),
        ((3, 2), (2,), {"reduction": "avg"}, "reduction is 'avg'"),
    ],
)
def test_wrong_use(student: tuple[int, ...], shape: tuple[int, ...], settings: dict[str, str], match: str) -> None:
    with pytest.raises(TaskError, match=match):
        softcache.regression_loss(torch.zeros(student), features(torch.zeros(3, *shape)), **settings)


def test_only_floating_point_numbers() -> None:
    with pytest.raises(TaskError, match=r"are torch.int64 \[3, 2\]; expected floating-point"):
        softcache.regression_loss(torch.zeros(3, 2, dtype=torch.int64), features(torch.zeros(3, 2)))


def test_a_depth_map_can_be_resized() -> None:
    """Numbers of the kind regression have sizes and variances too."""
    student, teacher, variance = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2) + 1
    soft = features(teacher, variance=variance)
    assert soft.task == TaskSpec("regression", (1, 2, 2), parts=("variance",))
    wanted = ((resize_by_hand(student, (2, 2), "area") - teacher) ** 2 / variance).mean()
    assert torch.allclose(softcache.regression_loss(student, soft, resize="area").double(), wanted)
