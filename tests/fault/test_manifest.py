"""A manifest is data from strangers: whatever it says, it is refused before anything is mapped."""

from typing import Any

import pyarrow as pa
import pytest

from softcache.errors import FormatError
from softcache.store import arrow
from softcache.store.buffers import Buffer
from softcache.store.manifest import LiveShard, Manifest, dump_manifest
from softcache.store.shards import CheckedFile, Shard


def unchecked(kind: type, **members: Any) -> Any:
    """An instance that its own constructor might refuse, as a forger would write it."""
    made = object.__new__(kind)
    for name, value in members.items():
        object.__setattr__(made, name, value)
    return made


def live(first_row: int = 0, rows: int = 10, *, target: str = "a@b", fragment: int = 0, **change: Any) -> LiveShard:
    file = {"path": f"data/{first_row}", "bytes": 1000, "sha256": "0" * 64, "blocks": (7,)}
    column = {"name": "values", "dtype": "float16", "file": 0, "offset": 64, "bytes": 200}
    renamed = {"size": "bytes"}
    file |= {renamed.get(k, k): change.pop(k) for k in ("path", "size", "blocks") if k in change}
    column |= {k: change.pop(k) for k in list(column) if k in change}
    statistics = change.pop("statistics", {})
    keys, split = change.pop("keys", "2" * 64), change.pop("split", "train")
    assert not change
    files, columns = (unchecked(CheckedFile, **file),), (unchecked(Buffer, **column),)
    shard = Shard(
        target=target,
        unit_key="1" * 64,
        keys_sha256=keys,
        rows=rows,
        files=files,
        columns=columns,
        statistics={"valid": rows},
    )
    shard.statistics.update(statistics)
    return LiveShard(shard=shard, split=split, fragment=fragment, first_view=0, views=1, first_row=first_row)


def rows(first_row: int, count: int = 10, **change: Any) -> LiveShard:
    return live(first_row, count, target="rows", fragment=first_row // 10, **change)


def test_good() -> None:
    shards = [live(10, fragment=1), live(0), live(0, target="c@d", name="other"), rows(0), rows(10)]
    manifest = Manifest(dump_manifest(shards), "m")
    targets = manifest.targets()
    assert list(targets) == ["a@b", "c@d", "rows"]
    assert targets["a@b"].first_row.tolist() == [0, 10]
    assert targets["a@b"].path(1, 0) == "data/10"
    assert targets["c@d"].columns == (("other", "float16", 0),)
    assert [s.first_row for s in manifest.live()] == [0, 10, 0, 0, 10]


def test_unknown_statistics_are_kept() -> None:
    given = {
        "errors": {"rows": 1, "wide": 0, "at": {"1.0": {"tv": [0.2, 0.1], "new": [1.0, None]}}, "more": 1},
        "median": 2,
    }
    (shard,) = Manifest(dump_manifest([live(statistics=given)]), "m").live()
    assert shard.shard.statistics == {"valid": 10} | given


@pytest.mark.parametrize(
    "given",
    [
        {"valid": "10"},
        {"errors": 1},
        {"errors": {"rows": 1, "wide": 0, "at": {"1.0": {}}}},
        {"errors": {"rows": 1, "wide": 0, "at": {"1.0": {"kl": [0.0, 0.0]}}}},
        {"errors": {"rows": 1, "wide": 0, "at": {"1.0": {"tv": [0.0]}}}},
    ],
)
def test_statistics_that_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^m: statistics"):
        list(Manifest(dump_manifest([live(statistics=given)]), "m").live())


@pytest.mark.parametrize(
    "shards",
    [
        [live(0)],
        [rows(10)],
        [rows(0), rows(20)],
    ],
)
def test_rows_cover_everything(shards: list[LiveShard]) -> None:
    with pytest.raises(FormatError, match="do not cover"):
        Manifest(dump_manifest(shards), "m").targets()


@pytest.mark.parametrize(
    "wrong",
    [
        live(10),
        live(0, fragment=1),
        live(0, 9),
        live(5, 5),
        live(5, 10, fragment=1),
        live(20, fragment=2),
        live(0, keys="3" * 64),
        live(0, split="test"),
    ],
)
def test_a_shard_has_the_place_of_its_fragment(wrong: LiveShard) -> None:
    """Otherwise another sample's answers would be read for a row."""
    with pytest.raises(FormatError, match="of its fragment"):
        Manifest(dump_manifest([rows(0), rows(10), wrong]), "m").targets()


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ([live(0), live(5)], "shards overlap"),
        ([live(0), live(0)], "shards overlap"),
        ([live(-1)], "out of range"),
        ([live(0, 0)], "out of range"),
        ([live(0, 2**62 + 1)], "out of range"),
        ([live(0, 8001)], "more rows than its files have bits"),
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
