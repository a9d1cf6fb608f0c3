"""Predictions that do not fit stored boxes."""

import pytest
import torch
from conftest import Workshop
from expressions import BOXES, DETECTION, answered_by_expression, one

import softcache
from softcache.errors import TaskError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_predictions_that_do_not_fit(shop: Workshop) -> None:
    one(shop, f"{{'a': {BOXES.format(n=1, size=1)}}}", DETECTION).build()
    soft = shop.open()["a"].lookup([0, 1])
    assert isinstance(soft, softcache.SoftSequences)
    logits, boxes = torch.randn(2, 3, 6), torch.rand(2, 3, 4)
    for wrong, message in (
        ({"student_logits": torch.randn(2, 3, 5)}, r"expected \[2, Q, 6\]"),
        ({"student_boxes": boxes * torch.nan}, "not finite"),
        ({"matched": torch.full((2, 1), 3)}, "expected a prediction for each box"),
        ({"matched": torch.zeros(2, 1)}, "expected a prediction for each box"),
    ):
        with pytest.raises(TaskError, match=message):
            softcache.detection_loss(**{"student_logits": logits, "student_boxes": boxes, "soft": soft} | wrong)  # type: ignore[arg-type]
