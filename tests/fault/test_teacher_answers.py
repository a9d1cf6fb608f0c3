"""Answers of teachers that cannot be stored, or only after conversion."""

import pytest
import torch
from conftest import Workshop
from expressions import CLASSES, DETECTION, answered_by_expression, one

from softcache.errors import (
    CodecError,
    TeacherError,
)


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("[x]", "returned list"),
        ("{'cls': [1], 'feat': x}", "is list"),
        ("{'cls': self.head(x).to_sparse(), 'feat': x}", "sparse"),
        ("{'cls': self.head(x).to('meta'), 'feat': x}", "meta"),
        ("{'cls': self.head(x).long(), 'feat': self.features(x)}", "int64"),
        ("{1: x}", "no output"),
        ("{'cls': self.head(x)[0], 'feat': self.features(x)}", "the task says"),
        ("{'cls': self.head(x).sum(), 'feat': self.features(x)}", "the task says"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_malformed_answers(workshop: Workshop, expression: str, said: str) -> None:
    model = (workshop.folder / "model.py").read_text()
    head, _, tail = model.partition("        return {")
    workshop.write("model.py", f"{head}        return {expression}\n" + tail.partition("\n")[2])
    with pytest.raises(TeacherError, match=said):
        workshop.build()


def test_answers_that_are_views_or_double(workshop: Workshop) -> None:
    model = (workshop.folder / "model.py").read_text()
    answer = "return {'cls': self.head(x).double().T.contiguous().T, 'feat': self.features(x)[:, :3]}"
    head, _, tail = model.partition("        return {")
    workshop.write("model.py", f"{head}        {answer}\n" + tail.partition("\n")[2])
    workshop.build()
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)


def test_small_probabilities_in_float16(workshop: Workshop) -> None:
    """Float16 would round them to 0, and no temperature brings them back."""
    model = (
        (workshop.folder / "model.py").read_text().replace("self.head(x) * self.scale", "(self.head(x) * 4).softmax(1)")
    )
    workshop.write("model.py", model)
    workshop.recipe["tasks"]["cls"]["value_kind"] = "probs"
    with pytest.raises(CodecError, match="a probability too small for float16"):
        workshop.build("tasks.cls.store.dtype=float16")
    workshop.build("tasks.cls.store.dtype=float32")
    expected = torch.log_softmax(workshop.answers(), 1)
    found = workshop.open()["cls"].lookup(range(40)).log_probs(4.0)
    assert torch.allclose(found.double(), expected, atol=1e-3)


def test_a_missing_output(shop: Workshop) -> None:
    with pytest.raises(TeacherError, match="no output 'lgoits'; it has output"):
        one(shop, "{'output': h}", CLASSES | {"output": "lgoits"}).build()


def test_parts_that_are_not_numbers(shop: Workshop) -> None:
    sparse_boxes = "[torch.ones(1, 4).to_sparse()] * len(h)"
    for part, message in (("None", "has the parts boxes of 0 samples"), (sparse_boxes, "expected numbers")):
        answers = f"{{'a': Sequences([1] * len(h), [(range(len(h)), h)], parts={{'boxes': {part}}})}}"
        with pytest.raises(TeacherError, match=message):
            one(shop, answers, DETECTION).build()
    sparse = "{'a': {'values': h, 'variance': (h * 0 + 1).to_sparse()}}"
    with pytest.raises(TeacherError, match="expected numbers"):
        one(shop, sparse, {"kind": "regression", "shape": [6], "parts": ["variance"]}).build()
