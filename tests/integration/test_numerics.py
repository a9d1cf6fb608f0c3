"""Precision in which teachers run: as the recipe says, for every answer."""

import pytest
import torch
from conftest import Workshop
from expressions import answered_by_expression, one

import softcache


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_numerics_of_lazy_answers(shop: Workshop) -> None:
    """Chunks that are computed when they are read use the recipe's numerics too."""
    task = {"kind": "sequence", "classes": 6, "value_kind": "logits"}
    one(shop, "{'a': Sequences([1] * len(x), self.later(x))}", task).build()
    shop.recipe["teachers"]["t"]["numerics"] = {"autocast": "bfloat16"}
    softcache.build(shop.save(), shop.folder / "other")
    exact, rounded = (
        cache["a"].lookup(range(40)).values for cache in (shop.open(), softcache.open(shop.folder / "other"))
    )
    assert 1e-4 < float((exact - rounded).abs().max()) < 0.1


def test_numerics_are_explicit_and_recorded(workshop: Workshop) -> None:
    workshop.build()
    workshop.recipe["teachers"]["t"]["numerics"] = {"autocast": "bfloat16"}
    with pytest.raises(softcache.SoftcacheError, match=r"teacher\.config\.numerics\.autocast: absent -> bfloat16"):
        workshop.build()
    softcache.build(workshop.save(), workshop.folder / "other")
    exact, rounded = workshop.open()["cls"], softcache.open(workshop.folder / "other")["cls"]
    gap = (exact.lookup(range(40)).values - rounded.lookup(range(40)).values).abs().max()
    assert 1e-4 < float(gap) < 0.1
    before = torch.get_float32_matmul_precision()
    assert before == "highest"
