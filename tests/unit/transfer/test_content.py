"""Content hashes against the table of docs/format.md, section 3, spelled out by hand."""

import hashlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softcache.errors import TransferSetError
from softcache.transfer.content import hash_rows
from softcache.transfer.sources import from_object


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def array(values: np.ndarray) -> bytes:
    return (
        b"a"
        + text(values.dtype.name)
        + struct.pack(f"<{values.ndim + 1}Q", values.ndim, *values.shape)
        + values.tobytes()
    )


def digest(columns: dict[str, pa.Array]) -> np.ndarray:
    return hash_rows(pa.table(columns), len(next(iter(columns.values()))))


MATRIX = pa.list_(pa.list_(pa.float32(), 2), 2)
CASES: list[tuple[str, Any, bytes]] = [
    ("missing", pa.array([None], pa.int64()), b"n"),
    ("bool", pa.array([True]), b"b\x01"),
    ("int8", pa.array([-3], pa.int8()), b"i" + struct.pack("<q", -3)),
    ("uint64", pa.array([2**63], pa.uint64()), b"u" + struct.pack("<Q", 2**63)),
    ("float16", pa.array([np.float16(1.5)]), b"f\x02" + np.float16(1.5).tobytes()),
    ("float32", pa.array([0.1], pa.float32()), b"f\x04" + struct.pack("<f", 0.1)),
    ("float64", pa.array([0.1]), b"f\x08" + struct.pack("<d", 0.1)),
    ("string", pa.array(["é"]), b"s" + text("é")),
    ("dictionary", pa.array(["é"]).dictionary_encode(), b"s" + text("é")),
    ("bytes", pa.array([b"\x00\x01"]), b"y" + struct.pack("<Q", 2) + b"\x00\x01"),
    ("vector", pa.array([[1, 2]], pa.list_(pa.int16())), array(np.array([1, 2], np.int16))),
    ("fixed vector", pa.array([[1, 2]], pa.list_(pa.int16(), 2)), array(np.array([1, 2], np.int16))),
    (
        "matrix",
        pa.array([[[1, 2], [3, 4]]], pa.list_(pa.list_(pa.float32(), 2), 2)),
        array(np.array([[1, 2], [3, 4]], np.float32)),
    ),
    ("empty vector", pa.array([[]], pa.list_(pa.int64())), array(np.array([], np.int64))),
    ("strings", pa.array([["a", "b"]]), b"l" + struct.pack("<Q", 2) + b"s" + text("a") + b"s" + text("b")),
    ("numbers with a hole", pa.array([[1, None]]), b"l" + struct.pack("<Q", 2) + b"i" + struct.pack("<q", 1) + b"n"),
    (
        "struct",
        pa.array([{"b": 1, "a": "x"}]),
        b"d" + struct.pack("<Q", 2) + text("a") + b"s" + text("x") + text("b") + b"i" + struct.pack("<q", 1),
    ),
    (
        "struct of a date and a matrix",
        pa.array([{"d": 7, "m": [[1, 2], [3, 4]]}], pa.struct([("d", pa.date32()), ("m", MATRIX)])),
        b"d"
        + struct.pack("<Q", 2)
        + text("d")
        + b"i"
        + struct.pack("<q", 7)
        + text("m")
        + array(np.array([[1, 2], [3, 4]], np.float32)),
    ),
    (
        "matrix with a hole",
        pa.array([[[1, None], [3, 4]]], MATRIX),
        b"l"
        + struct.pack("<Q", 2)
        + b"l"
        + struct.pack("<Q", 2)
        + b"f\x04"
        + struct.pack("<f", 1)
        + b"n"
        + array(np.array([3, 4], np.float32)),
    ),
    ("date", pa.array([7], pa.date32()), b"i" + struct.pack("<q", 7)),
]


@pytest.mark.parametrize(("column", "encoded"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_encoding(column: pa.Array, encoded: bytes) -> None:
    found = digest({"name": column})
    assert found[0].tobytes() == hashlib.sha256(text("name") + encoded).digest()


@pytest.mark.parametrize(("column", "encoded"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_neighbours_do_not_matter(column: pa.Array, encoded: bytes) -> None:
    """A row has one hash, whatever stands beside it: another value, or none."""
    alone = digest({"name": column})[0]
    beside = pa.concat_arrays([pa.nulls(1, column.type), column, pa.nulls(1, column.type)])
    if pa.types.is_dictionary(column.type):
        beside = pa.array([None, "é", None]).dictionary_encode()
    found = digest({"name": beside})
    assert np.array_equal(found[1], alone)
    assert np.array_equal(digest({"name": beside.slice(1, 1)})[0], alone)
    assert found[0].tobytes() == hashlib.sha256(text("name") + b"n").digest()


def test_no_columns() -> None:
    found = hash_rows(pa.table({"a": [1, 2, 3]}).select([]), 3)
    assert [f.tobytes() for f in found] == [hashlib.sha256().digest()] * 3


def test_columns_count_by_name_not_by_order() -> None:
    a, b = pa.array([1, 2]), pa.array(["x", "y"])
    assert np.array_equal(digest({"a": a, "b": b}), digest({"b": b, "a": a}))
    assert not np.array_equal(digest({"a": a, "b": b}), digest({"a": a, "c": b}))


@given(st.lists(st.integers(0, 255), min_size=12, max_size=12), st.integers(0, 2))
def test_slices_and_chunks_do_not_matter(values: list[int], start: int) -> None:
    source = from_object({"x": np.array(values, np.uint8).reshape(3, 2, 2)})
    whole = hash_rows(source.read(np.arange(3), ["x"]), 3)
    assert np.array_equal(whole[start:], hash_rows(source.read(np.arange(start, 3), ["x"]), 3 - start))
    assert np.array_equal(whole[[2, 0]], hash_rows(source.read(np.array([2, 0]), ["x"]), 2))


def test_decimals_are_refused() -> None:
    from decimal import Decimal

    with pytest.raises(TransferSetError, match="price"):
        digest({"price": pa.array([Decimal("1.5")])})
