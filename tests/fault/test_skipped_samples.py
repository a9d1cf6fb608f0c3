"""Bad samples that a build skips: listed, masked and not counted."""

import numpy as np
from conftest import Workshop


def test_the_list_follows_the_samples(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(3, np.nan))
    workshop.build("build.on_bad_sample=skip")
    assert workshop.open().commit.targets["cls@t"].skipped == [[3, 0, "NaN"]]
    workshop.samples(40)
    workshop.build("build.on_bad_sample=skip")
    target = workshop.open().commit.targets["cls@t"]
    assert (target.skipped, target.skipped_rows) == ([], 0)


def test_a_fragment_of_only_skipped_samples(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(slice(0, 10), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    assert workshop.build("build.on_bad_sample=skip").targets[0].valid == 30
