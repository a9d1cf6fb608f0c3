"""Tables that are wrong in one way: each check of Arrow files, plans, indexes and manifests is alone in seeing it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mutants import write
from test_manifest import live

from softcache.errors import FormatError, IntegrityError
from softcache.store import arrow
from softcache.store.checksums import sha256
from softcache.store.files import connect
from softcache.store.index import Segment, dump_segment
from softcache.store.manifest import Manifest, dump_manifest
from softcache.store.plan import Fragment, empty_plan, extend_plan, plan_path, read_plan
from softcache.store.writer import Writer

BAD_TEXT = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
)


@pytest.mark.parametrize(
    ("array", "form", "said"),
    [
        (pa.array([1] * 1000), "batches", "one record batch"),
        (pa.array([1] * 1000), "empty", "one record batch"),
        (pa.array([1] * 1000), "zstd", "compressed"),
        (pa.array([1] * 1000), "twice", "two columns of one name"),
        (pa.array([1, None]), "", "nulls"),
        (BAD_TEXT, "", "not a readable"),
    ],
)
def test_stream(array: pa.Array, form: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        arrow.load(write({"a": array}, {}, form, "a"), "x")


def strings(count: int) -> pa.Array:
    return arrow.list_array(pa.array(["a"] * count, pa.string()), [count], pa.string())


@pytest.mark.parametrize(
    "change",
    [
        {"views": pa.array([1], pa.int64())},
        {"views": pa.array([0], pa.int32())},
        {"first_view": pa.array([-1], pa.int32())},
        {"views": pa.array([2], pa.int32()), "first_view": pa.array([2**31 - 1], pa.int32())},
        {"sample_id": strings(2)},
        {"sample_id": strings(0), "content": arrow.list_array(pa.array([], pa.binary(32)), [0], pa.binary(32))},
    ],
)
def test_plan(tmp_path: Path, change: dict[str, pa.Array]) -> None:
    files = connect(tmp_path)
    fragment = Fragment.of(0, "train", pa.array(["a"]), np.zeros((1, 32), np.uint8))
    head = extend_plan(Writer(files), empty_plan(["x"]), [fragment]).head
    assert head is not None
    batch = arrow.load(files.read(plan_path(head)), "x")
    data = write(dict(zip(batch.schema.names, batch.columns, strict=True)) | change, batch.schema.metadata)
    files.create(plan_path(sha256(data)), data)
    with pytest.raises(FormatError, match="not a plan"):
        read_plan(files, sha256(data))
    files.create(plan_path("0" * 64), files.read(plan_path(head)))
    with pytest.raises(IntegrityError, match="its sha256 is not the one that was recorded"):
        read_plan(files, "0" * 64)


def test_segment() -> None:
    numbers, none = pa.array([1, 2]), pa.array([], pa.int64())
    for wrong in (
        {"row": numbers, "key": numbers},
        {"key": none, "row": none},
        {"key": numbers.cast(pa.uint64()), "row": numbers},
    ):
        with pytest.raises(FormatError, match="not an index segment"):
            Segment(arrow.dump(wrong), pa.int64(), [0], "x")
    with pytest.raises(FormatError, match="block checksums"):
        Segment(dump_segment(np.arange(2), np.arange(2)), pa.int64(), [0, 0], "x")


def manifest(change: dict[str, Any]) -> bytes:
    """The manifest of two shards, some columns changed."""
    batch = arrow.load(dump_manifest("a@b", [live(0), live(10, fragment=1)]), "x")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    changed = {n: pa.array([*v, *columns[n].to_pylist()[len(v) :]], columns[n].type) for n, v in change.items()}
    return arrow.dump(columns | changed, batch.schema.metadata)


def entries(name: str) -> Any:
    return arrow.load(manifest({}), "x")[name][0].as_py()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": [entries("files") * 3, []]}, "same files and columns"),
        ({"files": [entries("files"), entries("files") * 3]}, "same files and columns"),
        ({"columns": [entries("columns"), entries("columns") * 3]}, "same files and columns"),
        ({"files": [[], []]}, "same files and columns"),
        ({"columns": [[entries("columns")[0] | {"bytes": -1}]]}, "outside its file"),
        ({"first_view": [-1]}, "views out of range"),
        ({"views": [-1]}, "views out of range"),
        ({"views": [3]}, "views out of range"),
    ],
)
def test_manifest(change: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Manifest(manifest(change), "a@b", "m").shards()


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"valid": "x"}', "[" * 100_000])
def test_manifest_with_other_statistics(text: str) -> None:
    with pytest.raises(FormatError, match=r"not a manifest|m: statistics"):
        list(Manifest(manifest({"statistics": [text]}), "a@b", "m").live())
