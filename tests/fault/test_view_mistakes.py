"""Views, transforms and row numbers that are used wrongly, and teachers that spoil a transform's random numbers."""

import re

import pytest
from conftest import MODEL, Workshop
from two_views import students, transform, with_two_views

import softcache
from softcache.assess.validate import validate
from softcache.errors import (
    AlignmentError,
    AugmentationError,
    RecipeError,
    TaskError,
    TeacherError,
)


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return with_two_views(workshop)


def test_a_teacher_that_draws_random_numbers(shop: Workshop) -> None:
    shop.write("model.py", MODEL.replace('return {"cls"', 'torch.rand(64)\n        return {"cls"'))
    shop.recipe["augmentation"]["transform"] = "augment:slow"
    with pytest.raises(TeacherError, match="teacher t draws random numbers while it answers"):
        shop.build()
    shop.build("augmentation.transform=augment:with_rng")
    data = softcache.views(students(shop), shop.open(), transform("with_rng"), id="id", check="always")
    for place in range(40):
        data[place]


def test_row_numbers_of_checks(shop: Workshop) -> None:
    shop.build()
    cache = shop.open()
    for rows in ([-1], [80], [10**6], ["a"], [1.0], 3, [[1]], [[1], [1, 2]]):
        for read in (cache.checks, cache.parameters):
            with pytest.raises(AlignmentError, match="row"):
                read(rows)


def test_wrong_counts_epochs_and_views(shop: Workshop) -> None:
    shop.build()
    cache, made = shop.open(), transform("noisy")
    for count in ("2", 1.5, 0, True):
        with pytest.raises(TaskError, match=re.escape(f"views is {count!r}; the cache has 2")):
            softcache.views(students(shop), cache, made, id="id", views=count)
    data = softcache.views(students(shop), cache, made, id="id")
    for epoch in (None, 2**70, 1.5, -1):
        with pytest.raises(TaskError, match="expected an integer from 0"):
            data.set_epoch(epoch)
    for odd in ([[1], [1, 2]], {"a": object()}, "\ud800"):
        with pytest.raises(AlignmentError, match=r"sample 0, view 0: not the view that.*expected numbers or text"):
            softcache.views(students(shop), cache, lambda x, odd=odd: odd, id="id")[0]


def test_unusable_transforms(shop: Workshop) -> None:
    for change, why in (
        ({"arguments": {"zzz": 1}, "transform": "augment:Mix"}, "takes no arguments|unexpected keyword"),
        ({"transform": "augment:COUNT"}, "is not a transform"),
        ({"column": "zzz"}, "teacher t does not read 'zzz', but x"),
        ({"column": "label"}, "teacher t does not read 'label'"),
    ):
        shop.recipe["augmentation"] = {"transform": "augment:noisy", "column": "x", "views": 2} | change
        for attempt in (lambda: validate(shop.save()), shop.build):
            with pytest.raises((RecipeError, AugmentationError), match=why):
                attempt()
