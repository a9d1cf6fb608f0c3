"""Checks of views: exact ones see every bit, sketches see other views and not the rounding of one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softcache.errors import AugmentationError
from softcache.transfer.view_checks import CHECK_BYTES, NO_VIEW, agrees, check_of

PHOTO = np.asarray(Image.effect_noise((64, 64), 80).resize((96, 96)), np.uint8)


def crop(top: int, left: int, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(PHOTO[top : top + 64, left : left + 64][:, :: -1 if mirrored else 1])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.float32, np.float64, np.int64]))
def test_one_changed_number_is_seen(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    view = (rng.random((3, 8, 8)) * 255).astype(dtype)
    check = check_of(view)
    assert len(check) == CHECK_BYTES
    assert agrees(view.copy(), check, exact=True)
    changed = view.copy()
    place = tuple(rng.integers(s) for s in view.shape)
    was = changed[place]
    changed[place] = np.nextafter(was, dtype(1e9)) if np.issubdtype(dtype, np.floating) else was ^ 1
    assert not agrees(changed, check, exact=True)


@pytest.mark.parametrize("exact", [True, False])
def test_what_does_not_round(exact: bool) -> None:
    """Texts, names, shapes, dtypes and brightness are compared by the sketch too."""
    view = np.linspace(-1, 2, 48, dtype=np.float32).reshape(4, 12)
    others = [view * np.float32(f) for f in (0.5, 2, 4, 16, 100, -1)] + [
        view.astype(np.float64),
        view.ravel(),
        view[:3],
    ]
    whole = np.arange(48, dtype=np.uint8).reshape(4, 12)
    others += [whole, whole.astype(np.float32), whole / np.float32(255), np.zeros(0), {}, "text", {"x": view}]
    for other in [*others, np.zeros(48), "another text", {"y": view}, {"x": view, "t": "a"}, {"x": view, "t": "b"}]:
        assert not agrees(view, check_of(other), exact=exact), other
    assert not agrees("a text", check_of("another"), exact=exact)
    assert check_of({}) != NO_VIEW


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [3e38, 1e300, -1e-300, 2**63])
def test_numbers_of_any_size(number: float) -> None:
    view = np.array([number, number / 2, 1])
    assert agrees(view, check_of(view * (1 + 1e-9)), exact=False)
    assert not agrees(view, check_of(view * 3), exact=False)


def test_shape_and_type_count() -> None:
    view = np.arange(12, dtype=np.float32)
    check = check_of(view)
    for other in (view.reshape(3, 4), view.astype(np.float64), view.astype(np.int64), {"x": view}):
        assert not agrees(other, check, exact=True)
    assert agrees(torch.from_numpy(view), check, exact=True)
    assert agrees(view[::-1][::-1], check, exact=True)


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[st.integers(0, 32)] * 2, st.booleans()), st.tuples(*[st.integers(0, 32)] * 2, st.booleans()))
def test_sketches_tell_crops_apart(one: tuple, other: tuple) -> None:
    """Also crops that are one pixel apart, and mirrored ones."""
    check = check_of(crop(*one))
    assert agrees(crop(*other), check, exact=False) == (one == other)


def test_how_often_another_view_passes_for_rounding() -> None:
    rng = np.random.default_rng(0)
    kinds = {
        "bytes": lambda: rng.integers(0, 256, (16, 16), np.uint8),
        "floats": lambda: rng.normal(size=(3, 16, 16)).astype(np.float32),
        "sparse": lambda: rng.random((28, 28)).astype(np.float32) * (rng.random((28, 28)) < 0.2),
    }
    for name, make in kinds.items():
        checks = [check_of(make()) for _ in range(200)]
        views = [make() for _ in range(200)]
        passed = sum(agrees(view, check, exact=False) for view in views for check in checks)
        assert passed <= 2, name


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rounding_passes(seed: int) -> None:
    """Bytes that are one off in a tenth of the pixels; floats that differ in their last bits, or by a byte's step."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(1, 255, (3, 32, 32))
    off = whole + (rng.random(whole.shape) < 0.1) * rng.choice([-1, 1], whole.shape)
    assert agrees(off.astype(np.uint8), check_of(whole.astype(np.uint8)), exact=False)
    floats = rng.normal(size=(3, 32, 32)).astype(np.float32)
    assert agrees(floats * np.float32(1 + 2e-7), check_of(floats), exact=False)
    scaled, moved = (array.astype(np.float32) / 255 for array in (whole, off))
    assert agrees(moved, check_of(scaled), exact=False)


@pytest.mark.parametrize(
    "view",
    [
        np.zeros((2, 2)),
        np.empty((0, 3), np.float32),
        np.float32(1.5),
        7,
        True,
        "a text, ä",
        {"image": np.ones(3), "text": "x"},
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, 3).T,
        np.array([np.nan, np.inf, 1.0]),
        np.arange(6, dtype=">i4"),
        Image.new("RGB", (4, 3), (1, 2, 3)),
    ],
    ids=str,
)
def test_whatever_a_transform_makes(view: object) -> None:
    check = check_of(view)
    assert len(check) == CHECK_BYTES
    assert agrees(view, check, exact=True)
    assert agrees(view, check, exact=False)


def test_an_image_is_its_pixels() -> None:
    image = Image.new("RGB", (4, 3), (1, 2, 3))
    assert agrees(np.asarray(image), check_of(image), exact=True)


NOTHING = [object(), [object()], np.array(["a"]), None, 1j, [[1], [1, 2]], "\ud800", torch.ones(2).to_sparse()]


@pytest.mark.parametrize("view", NOTHING, ids=range(len(NOTHING)))
def test_what_has_no_bytes(view: object) -> None:
    with pytest.raises(AugmentationError, match="expected numbers or text"):
        check_of(view)
