"""Bad samples, answers and recipes: each stops the build with a typed error, and nothing is published."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import (
    AlignmentError,
    CodecError,
    RecipeError,
    TeacherError,
    TransferSetError,
)


@pytest.mark.parametrize(
    ("break_it", "error", "said"),
    [
        (lambda w: w.samples(40, ids=[0, 1, *range(1, 39)]), AlignmentError, "duplicate ids 1"),
        (lambda w: w.samples(3, ids=["a", None, "c"]), AlignmentError, "no value in rows 1"),
        (lambda w: w.samples(3, ids=[1, "a", 2]), TransferSetError, "table"),
        (lambda w: w.samples(3, ids=[1.5, 2.5, 3.5]), AlignmentError, "integers or strings"),
        (lambda w: w.samples(0), TransferSetError, "no samples"),
        (
            lambda w: w.samples(40, change=lambda x: x.__setitem__((7, 0), 999)),
            TransferSetError,
            r"1 sample \(7\).*this sample is broken",
        ),
        (
            lambda w: w.samples(40, change=lambda x: x.__setitem__(slice(5, 7), np.nan)),
            CodecError,
            r"2 samples \(5, 6\): NaN",
        ),
        (lambda w: w.recipe["teachers"]["t"].update(arguments={"scale": 3e38}), CodecError, "Inf"),
        (lambda w: w.recipe["tasks"]["cls"].update(classes=6), TeacherError, r"\[4, 5\].*\[4, 6\]"),
        (
            lambda w: w.recipe["tasks"]["cls"].update(value_kind="probs"),
            CodecError,
            "probs that are negative or do not sum",
        ),
        (
            lambda w: w.recipe["tasks"]["cls"].update(output="nope", name="x@t"),
            TeacherError,
            "no output 'nope'; it has cls, feat",
        ),
        (
            lambda w: w.recipe["transfer_set"].update(id="nope"),
            TransferSetError,
            "no column nope; there are id, x, label",
        ),
        (lambda w: w.recipe["transfer_set"].update(keep=["label", "nope"]), TransferSetError, "no column nope"),
        (lambda w: w.recipe["teachers"]["t"].update(reads=["nope"]), TransferSetError, "no column nope"),
        (lambda w: w.recipe["teachers"]["t"].update(weights="nope.safetensors"), RecipeError, "nope.safetensors"),
        (lambda w: w.recipe["teachers"]["t"].update(model="model:nope"), RecipeError, "has no attribute 'nope'"),
        (lambda w: w.recipe["teachers"]["t"].update(model="nope:make"), RecipeError, "No module named 'nope'"),
        (lambda w: w.recipe["teachers"]["t"].update(arguments={"nope": 1}), TeacherError, "unexpected keyword"),
        (lambda w: w.recipe["teachers"]["t"].update(model="model:preprocess"), TeacherError, "model:preprocess"),
        (lambda w: w.recipe["build"].update(device="cuda:7"), TeacherError, "cuda:7"),
        (lambda w: w.recipe["transfer_set"]["source"].update(callable="data:nope"), RecipeError, "nope"),
    ],
)
def test_bad_input(workshop: Workshop, break_it: Any, error: type[Exception], said: str) -> None:
    break_it(workshop)
    with pytest.raises(error, match=said):
        workshop.build()
    with pytest.raises(softcache.SoftcacheError):
        workshop.open()


def test_overflow_suggests_a_wider_dtype(workshop: Workshop) -> None:
    workshop.recipe["teachers"]["t"]["arguments"] = {"scale": 1e5}
    with pytest.raises(CodecError, match=r"too large for float16 \(store bfloat16 or float32\)"):
        workshop.build("tasks.cls.store.dtype=float16")
    workshop.build("tasks.cls.store.dtype=bfloat16")
    soft = workshop.open()["cls"].lookup(range(40))
    assert soft.values.dtype == torch.bfloat16
    assert torch.allclose(soft.values.double(), workshop.answers() * 1e5, rtol=2**-8)
    table = workshop.open()["cls"].table()
    assert str(table.schema.field("values").type.value_type) == "uint16"
