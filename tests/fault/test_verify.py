"""Damage: verify names it, reading refuses it."""

import contextlib
import random
import shutil
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import Workshop
from manifests import change_record, put, with_shards

import softcache
from softcache.cli import main
from softcache.errors import FormatError, IncompleteCache, IntegrityError, SoftcacheError, UnsupportedVersion
from softcache.store import arrow
from softcache.store.card import write_first_card
from softcache.store.card_parts import BEGIN
from softcache.store.checksums import crc32c
from softcache.store.commits import commit_path
from softcache.store.documents import dump_document, load_document
from softcache.store.files import connect
from softcache.store.layout import CARD
from softcache.store.live_shards import LiveShard
from softcache.store.shards import describe_file
from softcache.store.state import read_state

COMMIT = "commits/000/00000000000000000002.json"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workshop = Workshop(tmp_path_factory.mktemp("pristine"))
    workshop.recipe["tasks"]["cls"]["store"] = {"dtype": "float16"}
    workshop.build(limit=20)
    workshop.build()
    return workshop.cache


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "cache"))


def all_files(cache: Path) -> list[Path]:
    return sorted(p for p in cache.rglob("*") if p.is_file())


def read_everything(cache: Path) -> list[bytes]:
    opened = softcache.open(cache)
    rows = str(opened.rows.table().to_pydict()).encode()
    return [rows, *(opened[n].lookup(range(40)).values.numpy().tobytes() for n in opened.targets)]


def test_pristine(cache: Path) -> None:
    for level in ("quick", "full"):
        result = softcache.verify(cache, level)
        assert result.ok, result.problems
        assert result.files > 40
        assert result.commit == 2
    with pytest.raises(SoftcacheError, match="level"):
        softcache.verify(cache, "deep")


def test_every_flipped_bit_is_found(cache: Path, pristine: Path) -> None:
    """One bit in every file: verify names the file; reading never returns another value."""
    generator = random.Random(0)
    expected = read_everything(pristine)
    for path in all_files(cache):
        data = path.read_bytes()
        flipped = bytearray(data)
        title = data.find(b"# A softcache cache")  # people may change it
        begin, size = (title, data.find(BEGIN.encode())) if path.name == CARD else (0, 0)
        bit = generator.choice([b for b in range(len(data) * 8) if not begin <= b // 8 < size])
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        result = softcache.verify(cache)
        name = path.relative_to(cache).as_posix()
        assert any(p.path == name or name in p.what for p in result.problems), (name, result.problems)
        with contextlib.suppress(SoftcacheError):
            assert read_everything(cache) == expected, name
        path.write_bytes(data)
    assert softcache.verify(cache).ok


def test_a_chunks_own_checksum(cache: Path) -> None:
    """Its four bytes are in no block's checksum: the hash of the file shows that they have changed."""
    chunk = next(p for p in all_files(cache) if "feat@t" in str(p) and "values/c" in str(p))
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    said = [p.what for p in softcache.verify(cache).problems if p.path == chunk.relative_to(cache).as_posix()]
    assert "its sha256 is not the one that was recorded" in said


@pytest.mark.parametrize("how", ["truncated", "missing", "empty", "grown"])
@pytest.mark.parametrize("level", ["quick", "full"])
def test_damaged_shards(cache: Path, how: str, level: str) -> None:
    for target in ("cls@t", "feat@t", "rows"):
        shard = next(p for p in all_files(cache) if target in str(p) and ("values/c" in str(p) or p.suffix == ".arrow"))
        data = shard.read_bytes()
        if how == "missing":
            shard.unlink()
        else:
            shard.write_bytes({"truncated": data[:-1], "empty": b"", "grown": data + b"\0"}[how])
        result = softcache.verify(cache, level)
        assert any(p.path == shard.relative_to(cache).as_posix() for p in result.problems), result.problems
        with pytest.raises(IntegrityError, match=shard.name):
            read_everything(cache)
        shard.write_bytes(data)


@pytest.mark.parametrize("target", ["cls@t", "feat@t"])
def test_a_flipped_bit_in_a_value_is_refused_when_read(cache: Path, target: str) -> None:
    shard = next(p for p in all_files(cache) if target in str(p) and ("values/c" in str(p) or p.suffix == ".arrow"))
    name = shard.relative_to(cache).as_posix()
    live = next(s for s in latest_shards(cache) if name in [f.path for f in s.shard.files])
    rows = range(live.first_row, live.first_row + live.shard.rows)
    good = softcache.open(cache)[target].read(rows).values.numpy().tobytes()
    data = bytearray(shard.read_bytes())
    data[live.shard.columns[0].offset if shard.suffix == ".arrow" else 1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="block 0"):
        softcache.open(cache)[target].read(rows[:1])
    unchecked = softcache.open(cache, check=False)[target].read(rows).values
    assert unchecked.numpy().tobytes() != good, (
        "without checks the flipped bit is read: it is the check that refuses it"
    )
    if target == "cls@t":
        with pytest.raises(IntegrityError):
            softcache.open(cache)[target].to_hf()
        with pytest.raises(IntegrityError):
            softcache.open(cache)[target].table()


def test_swapped_shards(cache: Path) -> None:
    a, b = [p for p in all_files(cache) if "data/cls@t" in str(p)][:2]
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)
    assert {p.path for p in softcache.verify(cache).problems} >= {p.relative_to(cache).as_posix() for p in (a, b)}
    with pytest.raises(IntegrityError):
        read_everything(cache)


def test_a_lost_commit_is_noticed(cache: Path) -> None:
    (cache / "commits/000/00000000000000000001.json").unlink()
    with pytest.raises(FormatError, match="some are missing"):
        softcache.open(cache)


def test_a_commit_of_another_parent(cache: Path) -> None:
    first = cache / "commits/000/00000000000000000001.json"
    body = load_document(first.read_bytes(), "x")
    first.write_bytes(dump_document(body | {"created": "2000-01-01T00:00:00+00:00"}))
    with pytest.raises(IntegrityError, match="parent"):
        softcache.open(cache)
    assert any("parent" in p.what for p in softcache.verify(cache).problems)


def test_another_marker(cache: Path) -> None:
    marker = cache / "softcache.json"
    body = load_document(marker.read_bytes(), "x")
    marker.write_bytes(dump_document(body | {"cache_id": "another"}))
    with pytest.raises(IntegrityError, match="marker"):
        softcache.open(cache)


def test_a_newer_format_is_refused(cache: Path) -> None:
    marker = cache / "softcache.json"
    marker.write_bytes(dump_document(load_document(marker.read_bytes(), "x") | {"version": 2}))
    with pytest.raises(UnsupportedVersion, match="install a newer one") as caught:
        softcache.open(cache)
    assert caught.value.exit_code == 4


def test_a_commit_with_unknown_reader_features_is_refused_alone(cache: Path) -> None:
    commit = cache / COMMIT
    body = load_document(commit.read_bytes(), "x")
    commit.write_bytes(dump_document(body | {"reader_features": ["new-thing"]}))
    for act in (softcache.open, softcache.verify, softcache.gc):
        with pytest.raises(UnsupportedVersion, match="cannot read a cache with new-thing: install a newer one"):
            act(cache)
    assert len(softcache.open(cache, commit=1)["cls"].lookup([1, 2])) == 2
    commit.write_bytes(dump_document(body | {"reader_features": None}))
    with pytest.raises(FormatError, match="expected a list"):
        softcache.open(cache)


def test_writer_features_do_not_keep_readers_out(cache: Path, workshop: Workshop) -> None:
    commit = cache / COMMIT
    body = load_document(commit.read_bytes(), "x")
    commit.write_bytes(dump_document(body | {"writer_features": ["new-thing"]}))
    assert len(softcache.open(cache)["cls"].lookup([1, 2])) == 2
    for act in (partial(softcache.build, workshop.save()), softcache.gc):
        with pytest.raises(UnsupportedVersion, match="cannot write to a cache with new-thing"):
            act(cache)


def test_an_unknown_codec_keeps_only_its_target_out(cache: Path) -> None:
    change_record(cache, COMMIT, "cls@t", lambda record: record["declaration"]["codec"].update(name="holographic"))
    opened = softcache.open(cache)
    assert len(opened["feat"].lookup([1, 2])) == 2
    with pytest.raises(UnsupportedVersion, match="holographic"):
        opened["cls"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "parquet"}, "format 'parquet'"),
        ({"codec": {"name": "dense", "dtype": "float32", "order": "F"}}, "'order'"),
    ],
)
def test_what_a_target_has_that_is_not_known_keeps_it_out(cache: Path, change: dict, named: str) -> None:
    change_record(cache, COMMIT, "cls@t", lambda record: record["declaration"].update(change))
    opened = softcache.open(cache)
    assert len(opened["feat"].lookup([1, 2])) == 2
    with pytest.raises(UnsupportedVersion, match=f"{named}.* not known here"):
        opened["cls"]


def test_symbolic_links_are_named(cache: Path, tmp_path: Path) -> None:
    """As a snapshot of the Hub has them: no problem, but whoever can change the other file can change the cache."""
    assert softcache.verify(cache).links == []
    shard = next((cache / "data/cls@t").rglob("*.arrow"))
    shard.rename(tmp_path / "blob")
    shard.symlink_to(tmp_path / "blob")
    (cache / "index").rename(tmp_path / "index")
    (cache / "index").symlink_to(tmp_path / "index")
    (cache / "commits/000").rename(tmp_path / "000")
    (cache / "commits/000").symlink_to(tmp_path / "000")
    (cache / "commits/000/loop").symlink_to(cache)
    found = softcache.verify(cache)
    assert found.ok, found.problems
    segments = [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "index").rglob("*.arrow")]
    linked = [shard.relative_to(cache).as_posix(), *segments, commit_path(1), commit_path(2)]
    assert sorted(found.links) == sorted(linked)
    shown = CliRunner().invoke(main, ["verify", str(cache)])
    assert f"{len(found.links)} files behind symbolic links" in shown.output


def test_not_a_cache(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FormatError, match="not a softcache cache"):
            softcache.open(path)
        with pytest.raises(FormatError):
            softcache.verify(path)


def test_before_the_first_commit(workshop: Workshop) -> None:
    workshop.build()
    for path in (workshop.cache / "commits").rglob("*.json"):
        path.unlink()
    (workshop.cache / "README.md").unlink()
    write_first_card(connect(workshop.cache))
    with pytest.raises(IncompleteCache):
        softcache.open(workshop.cache)
    with pytest.raises(IncompleteCache):
        softcache.verify(workshop.cache)
    for name in (None, "cls@t", "rows"):
        with pytest.raises((datasets.exceptions.DataFilesNotFoundError, ValueError)):
            datasets.load_dataset(str(workshop.cache), name)


def test_what_a_crash_leaves_is_not_loaded(cache: Path) -> None:
    """Files of an unfinished build lie beside committed ones; `datasets` sees the committed rows alone."""
    shard = next(p for p in all_files(cache) if "data/cls@t" in str(p))
    shutil.copy(shard, shard.with_name("train-000099-" + "0" * 64 + ".arrow"))
    (shard.parent / ".tmp-1234").write_bytes(b"half")
    (cache / "receipts/.tmp-99").write_bytes(b"half")
    (cache / "commits/000/.tmp-99").write_bytes(b"half")
    found = datasets.load_dataset(str(cache), "cls@t", cache_dir=str(cache.parent / "hf"))["train"]
    assert found["sample_id"][:] == list(range(40))
    assert softcache.verify(cache).ok


def test_damaged_index_never_answers_with_another_row(cache: Path) -> None:
    """With its rows shuffled, a lookup raises: its blocks are compared with the commit's checksums."""
    for path in (cache / "index").rglob("*.arrow"):
        segment = arrow.load(path.read_bytes(), "x")
        rows = segment["row"].to_numpy().copy()
        rows[: len(rows) // 2] = rows[: len(rows) // 2][::-1]
        path.write_bytes(arrow.dump({"key": segment["key"], "row": pa.array(rows)}))
    opened = softcache.open(cache)
    for sample in range(40):
        with pytest.raises(IntegrityError, match="block 0 is not what was written"):
            opened.find([sample])


def test_a_forged_commit_is_compared_with_its_shards(cache: Path) -> None:
    path = cache / COMMIT
    pristine = path.read_bytes()
    path.write_bytes(dump_document(load_document(pristine, "x") | {"splits": {"train": 39, "test": 1}}))
    assert [p.path for p in softcache.verify(cache).problems if p.path != "README.md"] == [COMMIT]
    for change in ({"valid": 39}, {"bytes": 1}, {"skipped_rows": 7}):
        path.write_bytes(pristine)
        change_record(cache, COMMIT, "cls@t", lambda record, change=change: record.update(change))
        named = load_document(path.read_bytes(), "x")["manifests"]["cls@t"]["path"]
        assert {p.path for p in softcache.verify(cache).problems} - {"README.md"} == {named}


@pytest.mark.parametrize("array", ["sample_id", "view"])
def test_a_zarr_shard_of_other_samples(cache: Path, array: str) -> None:
    """A shard whose siblings name other samples is found, though every hash from the chunk to the commit fits."""
    live = latest_shards(cache)
    wrong = next(s for s in live if s.shard.target == "feat@t" and s.fragment == 3)
    chunk = next(f for f in wrong.shard.files if f"{array}/c" in f.path)
    data = bytearray((cache / chunk.path).read_bytes()[:-4])
    data[0] ^= 1
    forged = bytes(data) + struct.pack("<I", crc32c(bytes(data)))
    (cache / chunk.path).write_bytes(forged)
    files = tuple(describe_file(f.path, forged) if f == chunk else f for f in wrong.shard.files)
    publish_forged(cache, [replace(s, shard=replace(s.shard, files=files)) if s is wrong else s for s in live])
    said = [p.what for p in softcache.verify(cache).problems]
    assert any(f"{array} is not that of its fragment" in what for what in said), said
    assert any("not the hash of its files" in what for what in said)


def latest_shards(cache: Path) -> list[LiveShard]:
    return list(read_state(connect(cache)).live())


def publish_forged(cache: Path, live: list[LiveShard]) -> None:
    """Rewrite the newest commit with other manifests, every hash made to fit."""
    commit = cache / COMMIT
    body = load_document(commit.read_bytes(), "x")
    for name, old in body["manifests"].items():
        shards = {s.fragment: s for s in live if s.shard.target == name}
        data = with_shards((cache / old["path"]).read_bytes(), name, lambda s, shards=shards: shards[s.fragment])
        body["manifests"][name] = put(cache, data)
    commit.write_bytes(dump_document(body))
    for receipt in (cache / "receipts").rglob("*.json"):
        receipt.unlink()
