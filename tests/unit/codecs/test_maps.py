"""A codec of maps stores each place as its codec of items stores an item, and both sides agree on which that is."""

from typing import Any

import pytest
import torch

from softcache.codecs import make_codec
from softcache.codecs.logits import map_items
from softcache.tasks import TaskSpec


@pytest.mark.parametrize(("name", "settings"), [("topk", {"k": 4}), ("sampled", {"draws": 4})])
def test_items_of_maps(name: str, settings: dict[str, Any]) -> None:
    task = TaskSpec("segmentation", (6, 2, 3), "logits", activation="softmax")
    codec = make_codec(name, task, settings)
    values = torch.randn(2, 6, 2, 3)
    decoder, columns = codec.decoder.per_item(codec.encode(values))
    assert decoder == codec.item.decoder
    of_places = codec.item.encode(map_items(values))
    assert columns.keys() == of_places.keys()
    if name != "sampled":  # which draws at random
        assert all(torch.equal(columns[column], of_places[column]) for column in columns)
