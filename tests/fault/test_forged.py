"""One thing wrong at a time, all hashes right: each check is the only one that can see it."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL, Workshop
from manifests import change_record, put, with_shards

import softcache
from softcache.errors import AlignmentError, CommitStateUnknown, FormatError, IntegrityError, StorageError, TeacherError
from softcache.read.columns import FixedColumn, TextColumn
from softcache.read.shard_reader import ShardReader
from softcache.store import keys
from softcache.store.buffers import Buffer
from softcache.store.checksums import sha256
from softcache.store.commits import StoredFile, commit_path, publish, read_commit
from softcache.store.documents import dump_document, load_document, read_document
from softcache.store.files import connect
from softcache.store.files.local import LocalFiles
from softcache.store.live_shards import LiveShard
from softcache.store.receipts import read_receipt
from softcache.store.references import read_reference
from softcache.store.state import read_state

COMMIT = commit_path(1)
ODD = "(HERE / 'odd').read_text().split()"
ODD_MODEL = MODEL.replace("self.scale, ", f"self.scale + sum(x[:, :1] == float(i) for i in {ODD}), ")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """String ids in two fragments, one commit."""
    workshop = Workshop(tmp_path_factory.mktemp("forged"))
    workshop.samples(20, [f"sample {i}" for i in range(20)])
    workshop.build()
    return workshop.cache


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "cache"))


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a document, and sign it again."""
    body = load_document(path.read_bytes(), "x")
    change(body)
    path.write_bytes(dump_document(body))


def test_half_a_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = connect(tmp_path)
    files.create("a/b", b"1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="8 bytes were to be written"):
        files.create("a/c", b"the data")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_a_build_asks_for_create_only(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    honest = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda fs, path, value, **_: honest(fs, path, value))
    with pytest.raises(StorageError, match="overwrites files"):
        softcache.build(workshop.save(), f"memory://{workshop.folder.parent.name}")


def test_a_path_is_checked_where_it_is_parsed() -> None:
    with pytest.raises(FormatError, match="not a path"):
        StoredFile("../x", 1, "0" * 64)


def test_documents(tmp_path: Path) -> None:
    for member in (b'"\\ud800"', b"[" * 100_000 + b"]" * 100_000):
        head = b'{\n  "a": ' + member
        with pytest.raises(FormatError, match="not JSON"):
            load_document(head + f',\n  "sha256": "{sha256(head)}"\n}}\n'.encode(), "x")
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**40)  # no machine could read that
    with pytest.raises(FormatError, match="more than 268,435,456 bytes"):
        read_document(connect(tmp_path), "x.json")


@pytest.mark.parametrize("change", [{"format": "x"}, {"cache_id": 5}])
def test_marker(cache: Path, change: dict[str, Any]) -> None:
    forge(cache / "softcache.json", lambda body: body.update(change))
    with pytest.raises(FormatError, match="not a softcache marker"):
        softcache.open(cache)


@pytest.mark.parametrize("change", [{"number": 7}, {"id_type": "int32"}, {"rows": 0}, {"index": []}, {"rows": 19}])
def test_commit(cache: Path, change: dict[str, Any]) -> None:
    forge(cache / COMMIT, lambda body: body.update(change))
    with pytest.raises(FormatError, match="commit 1 says 19" if change == {"rows": 19} else "contradicts"):
        softcache.open(cache) if change == {"rows": 19} else read_commit(connect(cache), 1)


def test_rows_with_a_gap(cache: Path) -> None:
    forge_shards(cache, "rows", lambda one: replace(one, first_row=one.first_row + 1))
    with pytest.raises(FormatError, match="do not cover all rows"):
        softcache.open(cache)


def test_a_target_that_lies_elsewhere(cache: Path) -> None:
    forge_shards(cache, "cls@t", lambda one: replace(one, split="test"))
    opened = softcache.open(cache)
    with pytest.raises(FormatError, match="does not have the rows, keys or split of its fragment"):
        opened["cls"]


def forge_shards(cache: Path, target: str, change: Callable[[LiveShard], LiveShard]) -> None:
    """Change a target's shards, as the first commit names them."""
    body = load_document((cache / COMMIT).read_bytes(), "x")
    data = (cache / body["manifests"][target]["path"]).read_bytes()
    forge(
        cache / COMMIT, lambda body: body["manifests"].update({target: put(cache, with_shards(data, target, change))})
    )


def test_a_commit_without_rows(cache: Path) -> None:
    forge(cache / COMMIT, lambda body: body["manifests"].pop("rows"))
    with pytest.raises(FormatError, match="no manifest of rows"):
        softcache.open(cache)


def test_declaration(cache: Path) -> None:
    change_record(cache, COMMIT, "cls@t", lambda record: record["declaration"].pop("task"))
    with pytest.raises(FormatError, match=r"declaration\.task: Field required"):
        softcache.open(cache)["cls"]


@pytest.mark.parametrize("number", [0, 2, -1])
def test_no_commit_of_that_number(cache: Path, number: int) -> None:
    with pytest.raises(FormatError, match=f"there is no commit {number}"):
        softcache.open(cache, commit=number)


class Unsure(LocalFiles):
    """Says that a create failed, whether it was done or not."""

    done, readable = True, True

    def create(self, path: str, data: bytes) -> bool:
        if self.done:
            super().create(path, data)
        raise StorageError("the connection was lost")

    def read(self, path: str, limit: int | None = None) -> bytes:
        if not self.readable:
            raise StorageError("still no connection")
        return super().read(path, limit)


def test_publish_reads_back(cache: Path, tmp_path: Path) -> None:
    commit, files = read_commit(connect(cache), 1), Unsure(str(tmp_path / "other"))
    assert publish(files, commit) == commit
    assert publish(connect(cache), replace(commit, created="2000-01-01T00:00:00+00:00")) is None
    files.readable = False
    with pytest.raises(CommitStateUnknown, match="run the same build again"):
        publish(files, commit)
    files.done, files.readable = False, True
    with pytest.raises(StorageError, match="the connection was lost"):
        publish(files, replace(commit, number=2))


def test_receipt_of_another_unit(cache: Path) -> None:
    one, other = sorted((cache / "receipts").rglob("*.json"))[:2]
    shutil.copy(one, other)
    with pytest.raises(FormatError, match="another unit"):
        read_receipt(connect(cache), other.relative_to(cache).as_posix())


def test_references_gone_or_of_another_size(cache: Path) -> None:
    (reference,) = read_commit(connect(cache), 1).index
    path = cache / reference.path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match="the commit says"):
        read_reference(connect(cache), reference, check=False)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing; a commit names it"):
        read_reference(connect(cache), reference)


@pytest.mark.parametrize("wrong", [{"dtype": "float1024"}, {"file": -1}, {"offset": -1}, {"bytes": -1}])
def test_column_entry(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="not a column entry"):
        Buffer(**({"name": "x", "dtype": "uint8", "file": 0, "offset": 0, "bytes": 0} | wrong))


def test_window(cache: Path) -> None:
    reader = ShardReader(connect(cache), read_state(connect(cache)).shards("cls@t"))
    with pytest.raises(FormatError, match="is not there as float16"):
        FixedColumn(reader, "values", "float16", (5,))
    with pytest.raises(FormatError, match="is smaller than its rows' 6"):
        FixedColumn(reader, "values", "float32", (6,))


@pytest.mark.parametrize(("place", "value"), [(0, -1), (1, -5), (1, 50), (1, 200), (-1, 0xFF)])
def test_text_outside_its_data(cache: Path, place: int, value: int) -> None:
    files = connect(cache)
    shards = read_state(files).rows
    offsets, data = (
        shards.columns.index((f"sample_id.{n}", k, 0)) for n, k in (("offsets", "int32"), ("data", "bytes"))
    )
    path = cache / shards.path(0, 0)
    forged = bytearray(path.read_bytes())
    if place < 0:
        forged[shards.offsets[0, data]] = value
    else:
        begin = int(shards.offsets[0, offsets]) + 4 * place
        forged[begin : begin + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(forged)
    column = TextColumn(ShardReader(files, shards, check=False), "sample_id", shards.rows)
    with pytest.raises(FormatError, match="UTF-8" if place < 0 else "outside its data"):
        column.take_strings(np.array([0]), np.array([1 if value == 50 else 0]))


def test_content_hashes_of_another_length(cache: Path) -> None:
    shards = read_state(connect(cache)).shards("rows")
    begin = int(shards.offsets[0, shards.columns.index(("content.offsets", "int32", 0))])
    path = cache / shards.path(0, 0)
    forged = bytearray(path.read_bytes())
    forged[begin + 4 : begin + 8] = (31).to_bytes(4, "little")
    path.write_bytes(forged)
    with pytest.raises(FormatError, match="is not 32 bytes a row"):
        softcache.open(cache, check=False).check_contents(["sample 0", "sample 1"], np.zeros((2, 32), np.uint8))


def test_a_missing_key_is_missing_from_the_true_index(cache: Path) -> None:
    forge(cache / COMMIT, lambda body: body["index"][0].update(sha256="0" * 64))
    assert softcache.open(cache).find(["sample 3"]).tolist() == [3]
    with pytest.raises(IntegrityError, match="sha256 is not the one that was recorded"):
        softcache.open(cache).find(["another"])


def test_a_missing_key_between_others(workshop: Workshop) -> None:
    workshop.samples(3, [0, 5, 9])
    workshop.build()
    assert workshop.open().find([9, 0, 5]).tolist() == [2, 0, 1]
    for missing in (-1, 4, 6, 10):
        with pytest.raises(AlignmentError, match="lacks 1 of 2 keys"):
            workshop.open().find([5, missing])


def test_ids_whose_hashes_collide(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_hash_strings", lambda ids: np.zeros(len(ids), np.uint64))
    workshop.samples(20, ids := [f"sample {i}" for i in range(20)])
    workshop.build()
    order = random.Random(0).sample(range(20), 20)
    assert workshop.open().find([ids[i] for i in order]).tolist() == order


def odd_workshop(workshop: Workshop) -> Workshop:
    """A teacher that answers otherwise, for reasons that it does not declare, the samples listed in a file."""
    workshop.write("model.py", ODD_MODEL)
    workshop.write("odd", "")
    workshop.samples(40, change=lambda x: x.__setitem__((slice(None), 0), np.arange(40)))
    return workshop


@pytest.mark.parametrize("odd", [0, 20])
def test_canaries_in_the_first_and_in_the_last_fragment(workshop: Workshop, odd: int) -> None:
    odd_workshop(workshop).build(limit=30)
    workshop.write("odd", " ".join(map(str, range(odd, odd + 10))))
    with pytest.raises(TeacherError, match="differs from what is stored"):
        workshop.build()


def test_a_lost_shard_that_cannot_be_made_again(workshop: Workshop) -> None:
    odd_workshop(workshop).build()
    (workshop.cache / COMMIT).unlink()
    next((workshop.cache / "data/cls@t").rglob("train-000001-*")).unlink()
    workshop.write("odd", " ".join(map(str, range(10, 20))))
    with pytest.raises(IntegrityError, match="lost, and this build's shard has other bytes"):
        workshop.build()
