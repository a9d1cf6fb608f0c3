"""Pooling of hidden states beside padding."""

import pytest
import torch

from softcache.errors import TeacherError
from softcache.teachers.hooks import Hook, _pooled


def test_pooling_beside_padding() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(_pooled(Hook(module="m", pool="first"), states, mask), states[[0, 1], [2, 0]])
    with pytest.raises(TeacherError, match="its padding is unknown"):
        _pooled(Hook(module="m", pool="tokens"), states, torch.tensor([[0, 1], [1, 1]]))
