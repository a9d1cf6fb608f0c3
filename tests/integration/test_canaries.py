"""Canaries: stored answers that a later build asks the teacher for again."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import Workshop
from expressions import BOXES, DETECTION, answered_by_expression, one

from softcache.errors import TeacherError


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_canaries_look_at_both_ends_and_at_answered_rows(workshop: Workshop) -> None:
    workshop.samples(30, change=lambda x: x.__setitem__(slice(0, 4), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    workshop.build(limit=30)
    assert workshop.open().commit.rows == 30


@pytest.mark.parametrize("size", [1, 2000])
def test_canaries_see_values_beside_large_parts(shop: Workshop, size: int) -> None:
    one(shop, f"{{'a': {BOXES.format(n=1, size=size)}}}", DETECTION).build(limit=20)
    (shop.folder / "shift").write_text("0.5")
    shop.recipe["transfer_set"]["source"]["callable"] = "data:samples"
    with pytest.raises(TeacherError, match=r"a@t: the answer for sample .* differs from what is stored"):
        shop.build()


def test_undeclared_change_is_caught_by_canaries(workshop: Workshop) -> None:
    helper = "import torch\n\n\ndef shift(x):\n    return x + 0\n"
    workshop.write("helper.py", helper)
    model = (
        (workshop.folder / "model.py")
        .read_text()
        .replace("self.head(x) * self.scale", "shift(self.head(x) * self.scale)")
    )
    workshop.write("model.py", "from helper import shift\n" + model)
    sys.modules.pop("helper", None)
    workshop.build(limit=15)
    workshop.write("helper.py", helper.replace("+ 0", "+ 0.5"))
    sys.modules.pop("helper", None)
    workshop.write("model.py", (workshop.folder / "model.py").read_text())
    code = (
        "import softcache, sys; sys.dont_write_bytecode = True\n"
        f"softcache.build({str(workshop.save())!r}, {str(workshop.cache)!r})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "differs from what is stored" in run.stderr
    assert workshop.open().commit.number == 1
