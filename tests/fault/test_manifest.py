"""A manifest is data from strangers: whatever it says, it is refused before anything is mapped."""

from typing import Any

import pyarrow as pa
import pytest

from softcache.errors import FormatError
from softcache.store import arrow
from softcache.store.buffers import Buffer
from softcache.store.manifest import LiveShard, Manifest, dump_manifest
from softcache.store.shards import Shard, StoredFile


def live(first_row: int = 0, rows: int = 10, *, target: str = "a@b", **change: Any) -> LiveShard:
    file = StoredFile(
        change.pop("path", f"data/{first_row}"), change.pop("size", 1000), "0" * 64, change.pop("blocks", (7,))
    )
    column = Buffer(
        change.pop("name", "values"),
        change.pop("dtype", "float16"),
        change.pop("file", 0),
        change.pop("offset", 64),
        change.pop("bytes", 200),
    )
    assert not change
    shard = Shard(target, "1" * 64, "2" * 64, rows, (file,), (column,), {"valid": rows})
    return LiveShard(shard, "train", 0, 0, 1, first_row)


def test_good() -> None:
    shards = [live(10), live(0), live(0, target="c@d", name="other")]
    manifest = Manifest(dump_manifest(shards), "m")
    targets = manifest.targets()
    assert list(targets) == ["a@b", "c@d"]
    assert targets["a@b"].first_row.tolist() == [0, 10]
    assert targets["a@b"].path(1, 0) == "data/10"
    assert targets["c@d"].columns == (("other", "float16", 0),)
    assert [s.first_row for s in manifest.live()] == [0, 10, 0]


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([live(0), live(5)], "overlap"),
        ([live(0), live(0)], "overlap"),
        ([live(-1)], "out of range"),
        ([live(0, 0)], "out of range"),
        ([live(0, 2**62 + 1)], "out of range"),
        ([live(2**62 + 1)], "out of range"),
        ([live(size=-1, blocks=())], "out of range"),
        ([live(size=2**51, blocks=())], "out of range"),
        ([live(blocks=())], "one checksum per block"),
        ([live(blocks=(1, 2))], "one checksum per block"),
        ([live(size=10**9)], "one checksum per block"),
        ([live(offset=-1)], "outside its file"),
        ([live(offset=2**62)], "outside its file"),
        ([live(bytes=2**62)], "outside its file"),
        ([live(offset=900)], "outside its file"),
        ([live(dtype="float1024")], "unknown dtype"),
        ([live(file=1)], "unknown dtype or file"),
        ([live(file=-1)], "unknown dtype or file"),
        ([live(0), live(10, name="else")], "same columns"),
        ([live(0), live(10, dtype="int64")], "same columns"),
    ],
)
def test_refused(shards: list[LiveShard], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Manifest(dump_manifest(shards), "m").targets()


@pytest.mark.parametrize("data", [b"", b"ARROW1", arrow.dump({"target": pa.array(["a"])})])
def test_not_a_manifest(data: bytes) -> None:
    with pytest.raises(FormatError):
        Manifest(data, "m")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "s3://x/y", "a/../../b", "a\x00b"])
def test_paths_are_checked_before_use(path: str) -> None:
    with pytest.raises(FormatError, match="not a path inside a cache"):
        list(Manifest(dump_manifest([live(path=path)]), "m").live())
