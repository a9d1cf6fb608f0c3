"""`vectors.json` is what softcache computes, and what the format page says, worked out here without softcache."""

import hashlib
import json
import math
import struct
from typing import Any

import google_crc32c
import pyarrow as pa
import pytest
from vectors import HERE, vectors

VECTORS = json.loads((HERE / "vectors.json").read_text())
MASK = 2**64 - 1


def test_they_are_what_softcache_computes() -> None:
    same(json.loads(json.dumps(vectors())), VECTORS, "")


def same(ours: Any, theirs: Any, where: str) -> None:
    """Equal, but for the last digits of floating-point numbers."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
    if isinstance(ours, dict | list):
        assert len(ours) == len(theirs), where
        for key in ours if isinstance(ours, dict) else range(len(ours)):
            same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=2e-5), where
    else:
        assert ours == theirs, where


def mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def test_hashes_by_hand() -> None:
    for vector in VECTORS["canonical_json"]:
        assert json.loads(vector["text"]) == vector["value"]
        assert hashlib.sha256(vector["text"].encode()).hexdigest() == vector["sha256"]
    for vector in VECTORS["crc32c"]:
        assert google_crc32c.value(vector["text"].encode()) == vector["crc"]
    golden = 0x9E3779B97F4A7C15
    for vector in VECTORS["index_keys"]:
        data = vector["id"].encode()
        found = mix(len(data) + golden)
        for word in struct.unpack(f"<{-(-len(data) // 8)}Q", data.ljust(-(-len(data) // 8) * 8, b"\0")):
            found = mix((found ^ word) + golden & MASK)
        assert str(found) == vector["key"]
    for vector in VECTORS["view_seeds"]:
        name = vector["id"]
        text = name.encode() if isinstance(name, str) else b""
        named = b"s" + struct.pack("<Q", len(text)) + text if text else b"i" + struct.pack("<q", name)
        digest = hashlib.sha256(struct.pack("<q", vector["seed"]) + named + struct.pack("<i", vector["view"])).digest()
        assert str(int.from_bytes(digest[:8], "little")) == vector["s"]
    for cache in VECTORS["caches"].values():
        assert cache["unit_keys"]
        for vector in cache["unit_keys"]:
            text = json.dumps(["softcache", 1, vector["keys_sha256"], vector["fingerprint"]], separators=(",", ":"))
            assert hashlib.sha256(text.encode()).hexdigest() == vector["unit_key"]


def encoded(kind: str, value: Any) -> bytes:
    """A value of a content hash, by the table of the page."""
    if value is None:
        return b"n"
    listed = kind.partition("<")[2].rpartition(">")[0]
    if kind.startswith("struct"):
        types = dict(part.split(": ") for part in listed.split(", "))
        parts = b"".join(sized(name.encode()) + encoded(types[name], value[name]) for name in sorted(types))
        return b"d" + struct.pack("<Q", len(types)) + parts
    if listed in ("float32", "int32") and None not in value:
        numbers = struct.pack(f"<{len(value)}{'f' if listed == 'float32' else 'i'}", *value)
        return b"a" + sized(listed.encode()) + struct.pack("<QQ", 1, len(value)) + numbers
    if listed:
        return b"l" + struct.pack("<Q", len(value)) + b"".join(encoded(listed, one) for one in value)
    if kind == "bool":
        return b"b" + bytes([value])
    if kind.startswith("float"):
        size = int(kind.removeprefix("float")) // 8
        return b"f" + bytes([size]) + struct.pack({2: "<e", 4: "<f", 8: "<d"}[size], value)
    if kind == "string":
        return b"s" + sized(value.encode())
    if kind == "binary":
        return b"y" + sized(bytes.fromhex(value))
    return b"u" + struct.pack("<Q", value) if value >= 2**63 else b"i" + struct.pack("<q", value)


def sized(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def test_content_hashes_by_hand() -> None:
    for vector in VECTORS["content_hashes"]:
        columns = sorted(vector["columns"].items())
        data = b"".join(sized(name.encode()) + encoded(*column) for name, column in columns)
        assert hashlib.sha256(data).hexdigest() == vector["sha256"], columns


def test_dense_distributions_by_hand() -> None:
    """Of one target, from the stored float16 to log p(T)."""
    target = VECTORS["caches"]["v1"]["targets"]["cls@g"]
    stored = []
    for path in sorted((HERE / "v1/data/cls@g").rglob("*.arrow")):
        with pa.ipc.open_stream(path.read_bytes()) as stream:
            stored += stream.read_next_batch()["values"].to_pylist()
    for temperature, at in target["at"].items():
        for row, said, valid in zip(stored, at["log_probs"], target["valid"], strict=True):
            if not valid:
                assert said == [None] * 3
                continue
            scaled = [float(z) / float(temperature) for z in row]
            top = max(scaled)
            total = top + math.log(sum(math.exp(z - top) for z in scaled))
            assert said == pytest.approx([z - total for z in scaled], rel=1e-5, abs=1e-4)
