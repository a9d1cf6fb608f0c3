"""Precision in which teachers run: as the recipe says, for every answer."""

import pytest
from conftest import Workshop
from expressions import answered_by_expression, one

import softcache


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_numerics_of_lazy_answers(shop: Workshop) -> None:
    """Chunks that are worked out while they are taken are worked out as the recipe says."""
    task = {"kind": "sequence", "classes": 6, "value_kind": "logits"}
    one(shop, "{'a': Sequences([1] * len(x), self.later(x))}", task).build()
    shop.recipe["teachers"]["t"]["numerics"] = {"autocast": "bfloat16"}
    softcache.build(shop.save(), shop.folder / "other")
    exact, rounded = (
        cache["a"].lookup(range(40)).values for cache in (shop.open(), softcache.open(shop.folder / "other"))
    )
    assert 1e-4 < float((exact - rounded).abs().max()) < 0.1
