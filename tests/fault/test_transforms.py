"""Transforms that cannot be replayed, or that fail, and generators that they must not disturb."""

import random
from types import ModuleType

import numpy as np
import pytest
import torch
from augmented import TRANSFORMS, Augmented, Students

import softcache
from softcache.assess.forecast import plan
from softcache.errors import (
    AlignmentError,
    AugmentationError,
    IncompatibleTarget,
    RecipeError,
    SoftcacheError,
    TaskError,
    TransferSetError,
)
from softcache.transfer.view_checks import NO_VIEW


@pytest.mark.parametrize("transform", ["stray", "in_place", "beside_rng"])
def test_what_cannot_be_replayed_is_refused_before_a_teacher_runs(augmented: Augmented, transform: str) -> None:
    workshop = augmented(transform)
    workshop.write(
        "augment.py",
        TRANSFORMS + "\n\ndef in_place(x):\n    STATE.append(0)\n    return x + len(STATE)\n\n\nSTATE = []\n",
    )
    with pytest.raises(AugmentationError, match=r"views of samples \(0, 0\).*differ when they are made again"):
        workshop.build()
    assert workshop.calls() == 0
    with pytest.raises(AugmentationError):
        plan(workshop.save(), workshop.cache)


def test_faulty_transforms(augmented: Augmented) -> None:
    with pytest.raises(AugmentationError, match=r"draw returned .* cannot be stored as JSON"):
        augmented("Odd").build()
    with pytest.raises(RecipeError, match=r"augmentation: 'augment:missing' cannot be imported"):
        augmented("missing").build()
    with pytest.raises(RecipeError, match=r"augmentation.transform: augment:HERE: a PosixPath is not a transform"):
        augmented("HERE").build()
    with pytest.raises(RecipeError, match=r"augmentation.transform: augment:Scale: .*unexpected keyword"):
        augmented("Scale", arguments={"least": 1}).build()
    with pytest.raises(AugmentationError, match=r"the transform returned float; of whole samples it returns a dict"):
        augmented("number", column=None).build()


@pytest.mark.parametrize("change", ["seed", "code", "arguments"])
def test_another_augmentation_is_another_cache(augmented: Augmented, change: str) -> None:
    workshop = augmented()
    workshop.build()
    if change == "code":
        workshop.write("augment.py", TRANSFORMS + "# changed\n")
    else:
        workshop.recipe["augmentation"] |= {"seed": 1} if change == "seed" else {"arguments": {"scale": 0.5}}
    with pytest.raises(IncompatibleTarget, match=r"the recipe makes views differently from the cache"):
        workshop.build()
    del workshop.recipe["augmentation"]
    with pytest.raises(IncompatibleTarget):
        workshop.build()


def test_samples_that_cannot_be_augmented(augmented: Augmented, augment: ModuleType) -> None:
    def change(x: np.ndarray) -> None:
        x[5], x[17] = 600, 600

    workshop = augmented("picky")
    workshop.write("most", "500")
    workshop.samples(40, change=change)
    with pytest.raises(TransferSetError, match=r"\(\(5, 0\), \(5, 1\)\): .*too large to augment"):
        workshop.build()
    workshop.build("build.on_bad_sample=skip")
    cache = workshop.open()
    checks = cache.checks(cache.find([5, 6], [1, 1]))
    assert checks[0].tobytes() == NO_VIEW != checks[1].tobytes()
    assert cache["cls"].stats["skipped_rows"] == 6
    assert not cache["cls"].lookup([5], 1).mask.any()
    workshop.recipe["tasks"]["again"] = workshop.recipe["tasks"]["cls"] | {"output": "cls"}
    workshop.write("most", "700")
    workshop.build("build.on_bad_sample=skip")
    assert workshop.open()["again"].stats["skipped_rows"] == 6, "a view that is not recorded is none"
    assert softcache.verify(workshop.cache).ok


def test_generators_are_left_as_they_were(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented()
    workshop.build()
    data = softcache.views(Students(workshop), workshop.open(), augment.noisy, id="id")
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    data[0]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == drawn


def test_wrong_use_of_views(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented(views=2)
    workshop.build()
    cache, students = workshop.open(), Students(workshop)
    for wrong, why in [({"check": "often"}, "check is 'often'"), ({"views": 3}, "views is 3; the cache has 2")]:
        with pytest.raises(SoftcacheError, match=why):
            softcache.views(students, cache, augment.noisy, id="id", **wrong)
    unnamed = [{"x": x} for x in workshop.inputs().numpy()]
    with pytest.raises(AlignmentError, match="say which sample is which"):
        softcache.views(unnamed, cache, augment.noisy)
    with pytest.raises(AugmentationError, match="a int is not a transform"):
        softcache.views(students, cache, 3, id="id")
    with pytest.raises(TaskError, match="expected an integer from 0"):
        softcache.views(students, cache, augment.noisy, id="id").set_epoch(-1)
    with pytest.raises(AlignmentError, match="say which"):
        cache["cls"].lookup([0])

    def failing(x: np.ndarray) -> np.ndarray:
        raise ValueError("out of order")

    with pytest.raises(AlignmentError, match=r"sample 2, view 0: the transform raised ValueError: out of order"):
        softcache.views(students, cache, failing, id="id")[2]
    del workshop.recipe["augmentation"]
    workshop.cache = workshop.cache.with_name("plain")
    workshop.build()
    with pytest.raises(TaskError, match="is not augmented"):
        softcache.views(students, workshop.open(), augment.noisy, id="id")
    with pytest.raises(TaskError, match="is not augmented"):
        workshop.open().checks([0])
