"""A manifest is data from strangers: whatever it says, it is refused before anything is mapped."""

from typing import Any

import pyarrow as pa
import pytest

from softcache.errors import FormatError
from softcache.store import arrow
from softcache.store.buffers import Buffer
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import Manifest, check_places, check_rows, dump_manifest
from softcache.store.shards import CheckedFile, Shard

OTHER_COLUMNS = arrow.dump({"split": pa.array(["a"])}, {b"softcache.target": b"a@b"})


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


def opened(shards: list[LiveShard]) -> Manifest:
    name = shards[0].shard.target
    return Manifest(dump_manifest(name, shards), name, "m")


def test_good() -> None:
    manifest = opened([live(10, fragment=1), live(0)])
    shards, of_rows = manifest.shards(), opened([rows(0), rows(10)]).shards()
    assert shards.first_row.tolist() == [0, 10]
    assert shards.path(1, 0) == "data/10"
    assert shards.columns == (("values", "float16", 0),)
    assert [s.first_row for s in manifest.live()] == [0, 10]
    check_rows(of_rows, "m")
    check_places(shards, of_rows, "m")


def test_the_manifest_of_another_target() -> None:
    with pytest.raises(FormatError, match="m: the manifest of b'a@b', not of c@d"):
        Manifest(dump_manifest("a@b", [live(0)]), "c@d", "m")


@pytest.mark.parametrize("record", [b"", b"[]", b'{"rows": NaN}', b'{"rows": 1, "rows": 2}', b"{}", b"[" * 100_000])
def test_a_record_that_is_refused(record: bytes) -> None:
    batch = arrow.load(dump_manifest("a@b", [live(0)]), "m")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    data = arrow.dump(columns, {b"softcache.target": b"a@b", b"softcache.record": record})
    with pytest.raises(FormatError, match=r"^m: "):
        Manifest(data, "a@b", "m").committed()


def test_unknown_statistics_are_kept() -> None:
    given = {
        "errors": {"rows": 1, "wide": 0, "at": {"1.0": {"tv": [0.2, 0.1], "new": [1.0, None]}}, "more": 1},
        "median": 2,
    }
    (shard,) = opened([live(statistics=given)]).live()
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
        list(opened([live(statistics=given)]).live())


@pytest.mark.parametrize("shards", [[rows(10)], [rows(0), rows(20)]])
def test_rows_cover_everything(shards: list[LiveShard]) -> None:
    with pytest.raises(FormatError, match="do not cover"):
        check_rows(opened(shards).shards(), "m")


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
        check_places(opened([wrong]).shards(), opened([rows(0), rows(10)]).shards(), "m")


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
        opened(shards).shards()


@pytest.mark.parametrize("split", ["", "a b", "../x", "all"])
def test_names_of_splits(split: str) -> None:
    manifest = opened([live(split=split)])
    for act in (manifest.shards, manifest.first_files):
        with pytest.raises(FormatError, match="is not the name of a split"):
            act()


@pytest.mark.parametrize("data", [b"", b"ARROW1", OTHER_COLUMNS, dump_manifest("a@b", [])])
def test_not_a_manifest(data: bytes) -> None:
    with pytest.raises(FormatError):
        Manifest(data, "a@b", "m")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "s3://x/y", "a/../../b", "a\x00b"])
def test_paths_are_checked_before_use(path: str) -> None:
    with pytest.raises(FormatError, match="not a path inside a cache"):
        list(opened([live(path=path)]).live())
