"""The check of a view: what it compares, what it refuses, and what rounding it lets pass."""

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
from augmented import Augmented, Students, expected

import softcache
from softcache.errors import (
    AlignmentError,
)
from softcache.transfer import libraries


@pytest.mark.parametrize("wrong", ["one_more_draw", "given_rng", "unseeded"])
def test_every_other_view_is_refused(augmented: Augmented, augment: ModuleType, wrong: str) -> None:
    """A random stream that is one draw off, another transform, and the same one without its seed."""
    workshop = augmented(views=4)
    workshop.build()
    transform = augment.noisy if wrong == "unseeded" else getattr(augment, wrong)
    data = softcache.views(Students(workshop), workshop.open(), transform, id="id", check="always")
    if wrong == "unseeded":
        data._augmentation._seed = 1
    for epoch, place in itertools.product(range(4), range(40)):
        data.set_epoch(epoch)
        with pytest.raises(
            AlignmentError, match=f"sample {place}, view {epoch}: not the view that.*float32.*torch.*here.*numpy"
        ):
            data[place]


def test_what_is_compared(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented(views=2)
    workshop.build()
    softcache.views(Students(workshop), workshop.open(), augment.one_more_draw, id="id", check="off")[0]
    sampled = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id")
    for place in itertools.chain(range(40), range(24)):
        sampled[place]
    sampled._augmentation = softcache.views(
        Students(workshop), workshop.open(), augment.one_more_draw, id="id"
    )._augmentation
    refused = 0
    for epoch, place in itertools.product(range(2), range(40)):
        sampled.set_epoch(epoch)
        try:
            sampled[place]
        except AlignmentError:
            refused += 1
    assert 0 < refused < 20, "after the first 64 about one in 16 is compared"


def test_samples_that_have_changed_since(augmented: Augmented, augment: ModuleType) -> None:
    """The contents of a `datasets.Dataset` are compared at once, before any view is made."""
    workshop = augmented(views=2)
    workshop.build()
    students = Students(workshop)
    made = {"id": students.ids, "x": students.x}
    features = datasets.Features({"id": datasets.Value("int64"), "x": datasets.List(datasets.Value("float32"), 4)})
    data = softcache.views(
        datasets.Dataset.from_dict(made, features).with_format("numpy"), workshop.open(), augment.noisy, id="id"
    )
    assert np.array_equal(data[3]["x"], expected(students.x[3], 3, 0))
    made["x"][7, 1] += 1
    with pytest.raises(AlignmentError, match=r"not what the teachers saw.*1 sample, 7"):
        softcache.views(datasets.Dataset.from_dict(made, features), workshop.open(), augment.noisy, id="id")


def test_other_libraries_may_round(augmented: Augmented, augment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = augmented(views=2)
    workshop.build()

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.asarray(augment.noisy(x) * np.float32(1 + 1e-6))

    def given(transform: Callable[..., Any]) -> softcache.ViewDataset:
        return softcache.views(Students(workshop), workshop.open(), transform, id="id", check="always")

    with pytest.raises(AlignmentError):
        given(rounded)[0]
    monkeypatch.setattr(libraries.np, "__version__", "0.0")
    for place in range(40):
        given(rounded)[place]
    with pytest.raises(AlignmentError, match=r"'numpy': '0.0'"):
        given(augment.one_more_draw)[0]
