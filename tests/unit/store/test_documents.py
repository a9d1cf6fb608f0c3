import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softcache.errors import FormatError, IntegrityError
from softcache.store.checksums import sha256
from softcache.store.documents import dump_document, load_document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda k: k != "sha256"), JSON, min_size=1))
def test_round_trip(body: dict) -> None:
    assert load_document(dump_document(body), "x") == body


def test_the_hash_is_of_everything_before_it() -> None:
    data = dump_document({"a": 1})
    head, _, _ = data.partition(b',\n  "sha256"')
    assert data == head + f',\n  "sha256": "{sha256(head)}"\n}}\n'.encode()


@given(st.data())
def test_no_flipped_bit_passes(data: st.DataObject) -> None:
    stored = bytearray(dump_document({"name": "value", "numbers": [1, 2, 3]}))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        load_document(bytes(stored), "x")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", dump_document({"a": 1})[:-1], dump_document({"a": 1})[:20]])
def test_not_a_document(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="a/b"):
        load_document(data, "a/b")


def signed(head: bytes) -> bytes:
    return head + f',\n  "sha256": "{sha256(head)}"\n}}\n'.encode()


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b'{\n  "a": 1,\n  "a": 2', "a member occurs twice"),
        (b'{\n  "a": {"b": 1, "b": 1}', "a member occurs twice"),
        (b'{\n  "a": NaN', "NaN is not a number of JSON"),
        (b'{\n  "a": -Infinity', "-Infinity is not a number of JSON"),
        (b'\xef\xbb\xbf{\n  "a": 1', "Expecting value"),
        ('{\n  "a": 1'.encode("utf-16-le"), "not JSON"),
        (b'{\n  "a": "\xff"', "can't decode"),
        (b'{\n  "a": ' + b"[" * 100_000, "not JSON"),
    ],
)
def test_not_the_json_of_the_page(head: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        load_document(signed(head), "x")


def test_a_small_file_cannot_fill_the_memory() -> None:
    """An empty list takes two bytes there, and 56 here."""
    data = signed(b'{\n  "a": [' + b"[]," * 4_000_000 + b"0]")
    tracemalloc.start()
    with pytest.raises(FormatError, match="softcache reads at most 4,000,000"):
        load_document(data, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
