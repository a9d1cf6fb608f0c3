"""Bad samples that a build skips: listed, masked and not counted."""

import numpy as np
import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import (
    TeacherError,
)


def test_the_list_follows_the_samples(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(3, np.nan))
    workshop.build("build.on_bad_sample=skip")
    assert workshop.open().committed("cls@t").skipped == [[3, 0, "NaN"]]
    workshop.samples(40)
    workshop.build("build.on_bad_sample=skip")
    target = workshop.open().committed("cls@t")
    assert (target.skipped, target.skipped_rows) == ([], 0)


def test_a_fragment_of_only_skipped_samples(workshop: Workshop) -> None:
    workshop.samples(40, change=lambda x: x.__setitem__(slice(0, 10), np.nan))
    workshop.build("build.on_bad_sample=skip", limit=20)
    assert workshop.build("build.on_bad_sample=skip").targets[0].valid == 30


def test_bad_samples_can_be_skipped(workshop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[7, 0], x[12], x[33] = 999, np.nan, np.nan

    workshop.samples(40, change=change)
    summary = workshop.build("build.on_bad_sample=skip")
    assert [t.valid for t in summary.targets] == [37, 37]
    cache = workshop.open()
    soft = cache["cls"].lookup(range(40))
    bad = torch.tensor([i in (7, 12, 33) for i in range(40)])
    assert torch.equal(soft.mask, ~bad)
    assert torch.isnan(soft.values[bad]).all()
    assert torch.isfinite(soft.values[~bad]).all()
    assert torch.allclose(soft.values[~bad].double(), workshop.answers()[~bad], atol=1e-5)
    skipped = cache.committed("cls@t").skipped
    assert [s[0] for s in skipped] == [7, 12, 33]
    assert "broken" in skipped[0][2]
    assert "NaN" in skipped[1][2]
    loss = softcache.distillation_loss(torch.zeros(40, 5), soft, 2.0)
    assert torch.isfinite(loss)
    assert softcache.verify(workshop.cache).ok


def test_no_answer_at_all_is_not_published(workshop: Workshop) -> None:
    workshop.samples(5, change=lambda x: x.fill(np.nan))
    with pytest.raises(TeacherError, match="no sample has an answer"):
        workshop.build("build.on_bad_sample=skip")
