"""Classes that a teacher rules out with -Inf, where the task allows it."""

import pytest
import torch
from conftest import Workshop
from expressions import DETECTION, answered_by_expression, one

import softcache
from softcache.errors import CodecError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_classes_that_are_ruled_out(shop: Workshop) -> None:
    """If the task allows -Inf it is stored as it is, for boxes and for independent labels."""
    masked = "[h[i:i+1].where(h[i:i+1] > h[i].min(), -torch.inf) for i in range(len(h))]"
    boxes = f"Sequences.from_lists({masked}, boxes=[torch.ones(1, 4)] * len(h))"
    one(shop, f"{{'a': {boxes}, 'b': h.where(h > 0, -torch.inf)}}", DETECTION | {"allow_masked": True})
    tags = {"kind": "multilabel", "classes": 6, "value_kind": "logits", "allow_masked": True, "teachers": ["t"]}
    shop.recipe["tasks"]["b"] = tags
    shop.build()
    cache = shop.open()
    found, tagged = cache["a"].lookup(range(40)), cache["b"].lookup(range(40))
    assert ((found.values == -torch.inf).sum(-1) == 1).all()
    assert (found.probs(4.0).sum(-1) - 1).abs().max() < 1e-5
    assert torch.equal(tagged.values == -torch.inf, tagged.probs(4.0) == 0)
    student = torch.zeros(40, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(softcache.distillation_loss(student, tagged, 2.0), student)
    assert gradient.isfinite().all()
    with pytest.raises(CodecError, match="declare allow_masked"):
        softcache.build(shop.save(), shop.folder / "other", ["tasks.a.allow_masked=false"])
