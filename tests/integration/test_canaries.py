"""Canaries: stored answers that a later build asks the teacher for again."""

import numpy as np
from conftest import Workshop


def test_canaries_look_at_both_ends_and_at_answered_rows(workshop: Workshop) -> None:
    workshop.samples(30, change=lambda x: x.__setitem__(slice(0, 4), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    workshop.build(limit=30)
    assert workshop.open().commit.rows == 30
