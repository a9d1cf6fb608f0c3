"""regression_loss where some rows have no answer."""

import numpy as np
import pytest
import torch

import softcache
from softcache.codecs import make_codec
from softcache.soft.keys import KnownKeys
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec


@pytest.mark.parametrize("distance", ["squared", "absolute", "cosine"])
def test_masked_rows_have_no_gradient(distance: str) -> None:
    task = TaskSpec("features", (3,))
    codec = make_codec("dense", task, {"dtype": "float32"})
    keys = KnownKeys(np.zeros(2), np.zeros(2))
    soft = SoftTargets(
        codec.decoder, codec.encode(torch.tensor([[1.0, 2.0, 3.0], [torch.nan] * 3])), torch.tensor([True, False]), keys
    )
    student = torch.tensor([[1.0, 1.0, 1.0], [torch.inf, 1.0, torch.nan]], requires_grad=True)
    (gradient,) = torch.autograd.grad(softcache.regression_loss(student, soft, distance), student)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
