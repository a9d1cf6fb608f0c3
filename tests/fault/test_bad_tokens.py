"""Token ids and loss masks of a transfer set that are not what they should be."""

from pathlib import Path
from typing import Any

import pytest
from language import Language

from softcache.errors import (
    TransferSetError,
)


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"mask": [-100, -100, 7, 8]}, "expected a 0 or a 1"),
        ({"mask": [0, 1]}, "expected a 0 or a 1 for each of 4 tokens"),
        ({"mask": [0.0, 1.0, 0.0, 1.0]}, "list of at least one integer"),
        ({"tokens": [5.7, 6.2, 7.0, 8.0]}, "list of at least one integer"),
        ({"tokens": ["5", "6", "7", "8"]}, "list of at least one integer"),
        ({"tokens": [5, 6, 7, 300]}, "expected ids from 0 to 299"),
    ],
)
def test_bad_tokens_and_masks(language: Language, row: dict[str, Any], said: str) -> None:
    language.rows([{"id": 0, "tokens": [5, 6, 7, 8], "mask": [0, 1, 1, 1]} | row])
    del language.recipe["teachers"]["t"]["text"]
    language.recipe["teachers"]["t"] |= {"input_ids": "tokens", "loss_mask": "mask"}
    with pytest.raises(TransferSetError, match=said):
        language.build()
