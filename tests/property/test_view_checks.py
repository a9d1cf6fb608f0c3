"""Checks of views: exact ones see every bit, sketches see other views and not the rounding of one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softcache.errors import AugmentationError
from softcache.transfer.view_checks import CHECK_BYTES, agrees, check_of

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


@pytest.mark.parametrize("view", [object(), [object()], np.array(["a"]), None, 1j])
def test_what_has_no_bytes(view: object) -> None:
    with pytest.raises(AugmentationError, match="expected numbers or text"):
        check_of(view)
