"""attention_loss against eq. 2 of Zagoruyko and Komodakis 2017 in float64, squared and averaged over the places."""

import pytest
import torch
from feature_targets import features, resize_by_hand, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

import softcache
from softcache.errors import TaskError

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))


def row_loss(ours: torch.Tensor, theirs: torch.Tensor, power: float, resize: str | None = None) -> torch.Tensor:
    """The loss of one row's maps [C', H', W'] and [C, H, W], written out in float64."""
    student, teacher = (sum(channel.abs() ** power for channel in maps) for maps in (ours, theirs))
    assert isinstance(student, torch.Tensor)
    assert isinstance(teacher, torch.Tensor)
    if resize is not None and student.shape != teacher.shape:
        student = resize_by_hand(student, (teacher.shape[0], teacher.shape[1]), resize)
    apart = student / torch.sqrt((student**2).sum()) - teacher / torch.sqrt((teacher**2).sum())
    return (apart**2).sum() / apart.numel()


@settings(max_examples=80)
@given(
    st.integers(0, 10_000),
    SIZES,
    SIZES,
    st.sampled_from([1, 1.5, 2, 3, 8]),
    st.sampled_from(["bilinear", "area"]),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from(["mean", "sum", "none"]),
)
def test_formula(
    seed: int,
    old: tuple[int, int],
    new: tuple[int, int],
    power: float,
    how: str,
    dtype: torch.dtype,
    answered: list[bool],
    reduction: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor(answered)
    teacher = torch.randn(len(mask), 3, *new, generator=generator)
    student = torch.randn(len(mask), 2, *old, generator=generator).to(dtype)
    student[~mask] = torch.nan
    student.requires_grad_()
    resize = how if old != new else None
    soft = features(teacher, mask)
    loss = softcache.attention_loss(student, soft, power=power, resize=resize, reduction=reduction)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    ours = student.detach().double().requires_grad_()
    rows = {i: row_loss(ours[i], teacher[i].double(), power, resize) for i in mask.nonzero()[:, 0].tolist()}
    each = torch.stack([rows.get(i, ours.new_zeros(())) for i in range(len(mask))])
    wanted = {"none": each, "sum": each.sum(), "mean": each.sum() / max(len(rows), 1)}[reduction]
    assert torch.allclose(loss.double(), wanted, rtol=tolerance(dtype), atol=1e-6)
    (found,) = torch.autograd.grad(loss.sum(), student)
    assert (found[~mask] == 0).all()
    if rows:
        (gradient,) = torch.autograd.grad(wanted.sum(), ours)
        close = max(tolerance(dtype), 2 * torch.finfo(dtype).eps)
        assert torch.allclose(found[mask].double(), gradient[mask], rtol=close, atol=close)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("power", [2, 8])
def test_an_attention_map_has_no_scale(scale: float, power: float) -> None:
    """float32 is enough, though a power of the features is not."""
    torch.manual_seed(0)
    teacher, start = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    student = (start * scale).requires_grad_()
    loss = softcache.attention_loss(student, features(teacher * scale), power=power)
    ours = start.double().requires_grad_()
    wanted = torch.stack([row_loss(u, v.double(), power) for u, v in zip(ours, teacher, strict=True)]).mean()
    assert torch.allclose(loss.double(), wanted, rtol=1e-5)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found.double() * scale, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("power", [1, 1.5, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_zeros(power: float, dtype: torch.dtype) -> None:
    student = torch.zeros(3, 2, 2, 2, dtype=dtype)
    student[1] = 1
    student.requires_grad_()
    teacher = torch.zeros(3, 2, 2, 2)
    teacher[0] = 1
    losses = softcache.attention_loss(student, features(teacher), power=power, reduction="none")
    assert torch.allclose(losses, torch.tensor([0.25, 0.25, 0.0], dtype=dtype)), "a map of norm 1, and one of zeros"
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    assert gradient.isfinite().all()
    assert (gradient[0] == 0).all()
    assert (gradient[2] == 0).all()


def test_a_map_that_resizing_leaves_empty() -> None:
    """Bilinear resizing to a smaller size looks at some places only: here at none that is not 0."""
    student = torch.zeros(1, 1, 9, 9)
    student[0, 0, 0, 0] = 1
    student.requires_grad_()
    loss = softcache.attention_loss(student, features(torch.ones(1, 1, 1, 1)), resize="bilinear")
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 1
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_numbers_that_are_not_finite_are_not_hidden() -> None:
    for bad in (torch.nan, torch.inf):
        student = torch.ones(2, 1, 2, 2)
        student[1, 0, 0, 0] = bad
        losses = softcache.attention_loss(student, features(torch.ones(2, 1, 2, 2)), reduction="none")
        assert losses.isnan().tolist() == [False, True]


@pytest.mark.parametrize("rows", [0, 2])
def test_no_row_with_an_answer(rows: int) -> None:
    mask = torch.zeros(rows, dtype=torch.bool)
    student = torch.full((rows, 2, 5, 5), torch.nan, requires_grad=True)
    loss = softcache.attention_loss(student, features(torch.ones(rows, 3, 3, 3), mask), resize="bilinear")
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0
    assert torch.equal(gradient, torch.zeros(rows, 2, 5, 5))


@pytest.mark.parametrize(
    ("student", "settings", "match"),
    [
        ((3, 2, 5, 5), {}, "5 x 5, the teacher's 4 x 4; give resize='bilinear' or resize='area'"),
        ((3, 2, 5, 5), {"resize": "nearest"}, "resize is 'nearest'; expected one of bilinear, area"),
        ((3, 2, 4, 4), {"power": 0.5}, "power is 0.5; expected a number of at least 1"),
        ((3, 2, 4, 4), {"power": float("nan")}, "power is nan"),
        ((3, 2, 4, 4), {"power": float("inf")}, "power is inf"),
        ((3, 2, 4, 4), {"reduction": "avg"}, "reduction is 'avg'; expected one of mean, sum, none"),
        ((3, 16), {}, r"are \[3, 16\]; expected maps \[3, C, H, W\]"),
        ((2, 2, 4, 4), {}, r"are torch.float32 \[2, 2, 4, 4\]; expected floating-point values \[3, ...\]"),
        ((3, 0, 4, 4), {}, "expected floating-point values"),
    ],
)
def test_wrong_use(student: tuple[int, ...], settings: dict[str, str], match: str) -> None:
    with pytest.raises(TaskError, match=match):
        softcache.attention_loss(torch.zeros(student), features(torch.zeros(3, 2, 4, 4)), **settings)


def test_wrong_targets() -> None:
    with pytest.raises(TaskError, match=r"features are \[4\]; attention maps need maps \[C, H, W\]"):
        softcache.attention_loss(torch.zeros(3, 2, 4, 4), features(torch.zeros(3, 4)))
    with pytest.raises(TaskError, match=r"a regression target has no features .* use softcache.regression_loss"):
        softcache.attention_loss(torch.zeros(3, 2, 4, 4), features(torch.zeros(3, 2, 4, 4), kind="regression"))
