"""Hooks: outputs that a recipe takes from a module inside the model."""

import pytest
from conftest import Workshop
from expressions import CLASSES, answered_by_expression, one

import softcache
from softcache.errors import TeacherError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_hooks(shop: Workshop) -> None:
    """A hook cannot replace an output of the model, and changes only its own target."""
    one(shop, "{'a': h}", CLASSES).build()
    shop.recipe["teachers"]["t"]["hooks"] = {"b": {"module": "inner"}}
    shop.recipe["tasks"]["b"] = {"kind": "features", "shape": [6], "teachers": ["t"]}
    assert {target.name for target in shop.build().targets} == {"a@t", "b@t"}
    assert shop.open()["b"].provenance["declaration"]["teacher"]["hook"] == {"module": "inner", "pool": "none"}
    shop.recipe["teachers"]["t"]["hooks"] = {"a": {"module": "inner"}}
    with pytest.raises(TeacherError, match="hooks: a is also an output of the model"):
        softcache.build(shop.save(), shop.folder / "other", ["~tasks.b"])
