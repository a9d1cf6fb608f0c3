"""The index's keys against an independent, scalar implementation of docs/format.md, section 8."""

import hashlib
import struct

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softcache.errors import AlignmentError
from softcache.store.keys import id_array, index_keys, keys_digest

G, M64 = 0x9E3779B97F4A7C15, 2**64 - 1


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def reference(sample_id: int | str) -> int:
    if isinstance(sample_id, int):
        return sample_id
    data = sample_id.encode()
    h = mix((len(data) + G) & M64)
    for i in range(0, len(data), 8):
        h = mix(((h ^ int.from_bytes(data[i : i + 8].ljust(8, b"\0"), "little")) + G) & M64)
    return h


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.one_of(st.lists(INT64, min_size=1), st.lists(TEXT, min_size=1)))
def test_keys(ids: list) -> None:
    assert index_keys(id_array(ids)).tolist() == [reference(i) for i in ids]


@given(st.lists(TEXT, min_size=2))
def test_keys_of_a_slice(ids: list[str]) -> None:
    assert index_keys(id_array(ids)[1:]).tolist() == [reference(i) for i in ids[1:]]


def test_keys_digest() -> None:
    contents = np.arange(64, dtype=np.uint8).reshape(2, 32)
    expected = hashlib.sha256()
    for sample, content in zip(("é", "b"), contents, strict=True):
        for view in (3, 4):
            text = sample.encode()
            expected.update(b"s" + struct.pack("<Q", len(text)) + text + struct.pack("<i", view) + content.tobytes())
    assert keys_digest(pa.array(["é", "b"]), 3, 2, contents) == expected.hexdigest()


@pytest.mark.parametrize("ids", [torch.tensor([3, 1]), np.array([3, 1], np.uint8), [3, 1], (3, 1), pa.array([3, 1])])
def test_integers_of_all_kinds(ids: object) -> None:
    assert id_array(ids).equals(pa.array([3, 1], pa.int64()))


@pytest.mark.parametrize(
    "ids", [["a", "é"], np.array(["a", "é"]), np.array(["a", "é"], object), pa.array(["a", "é"], pa.large_string())]
)
def test_strings_of_all_kinds(ids: object) -> None:
    assert id_array(ids).to_pylist() == ["a", "é"]


@pytest.mark.parametrize("ids", [[1, "a"], [1.5], [None, 1], ["a", ""], [2**63], ["\ud800"], [[1]], [b"a"], [True]])
def test_ids_that_are_none(ids: list) -> None:
    with pytest.raises(AlignmentError):
        id_array(ids)
