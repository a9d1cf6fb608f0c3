"""What every storage must do, on a local disk and on an fsspec filesystem."""

import threading
from pathlib import Path

import pytest

from softcache.errors import FormatError, IntegrityError, MissingExtra, StorageError
from softcache.store.checksums import sha256
from softcache.store.files import Files, connect
from softcache.store.files.remote import puts_whole_files


@pytest.fixture(params=["local", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    return connect(tmp_path / "ü x" if request.param == "local" else f"memory://{tmp_path.name}/ü x")


def test_create_never_overwrites(files: Files) -> None:
    assert files.create("a/b", b"one")
    assert not files.create("a/b", b"two")
    assert files.read("a/b") == b"one"
    assert files.size("a/b") == 3
    assert files.names("a") == ["b"]


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    """On a local disk; fsspec's memory filesystem checks and writes in two steps, and a bucket is not at hand here."""
    files = connect(tmp_path)
    won: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        if files.create("c/1", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert files.read("c/1") == str(won[0]).encode() * 1000


def test_absent_files(files: Files) -> None:
    assert files.size("no/file") is None
    assert files.names("no") == []
    assert list(files.walk("no")) == []
    with pytest.raises(FileNotFoundError):
        files.read("no/file")


def test_unfinished_writes_have_no_names(tmp_path: Path) -> None:
    files = connect(tmp_path)
    files.create("a/b", b"whole")
    (tmp_path / "a/.tmp-1").write_bytes(b"half")
    assert files.names("a") == ["b"]


def test_put_compares_what_is_there(files: Files) -> None:
    files.put("x", b"data")
    files.put("x", b"data")
    with pytest.raises(IntegrityError, match="x"):
        files.put("x", b"other")


def test_replace_delete_walk(files: Files) -> None:
    files.replace("README.md", b"1")
    files.replace("README.md", b"22")
    files.create("d/e/f", b"333")
    assert [(p, n) for p, n, _ in files.walk("")] == [("README.md", 2), ("d/e/f", 3)]
    assert all(t > 1e9 for _, _, t in files.walk(""))
    files.delete("d/e/f")
    files.delete("d/e/f")
    assert [p for p, _, _ in files.walk("")] == ["README.md"]


def test_local_copies_are_checked(files: Files) -> None:
    files.create("data/x", b"data")
    assert Path(files.local("data/x", sha256(b"data"), 4)).read_bytes() == b"data"
    if not files.url.startswith("memory"):
        return
    with pytest.raises(IntegrityError, match="data/x"):
        files.local("data/x", sha256(b"other"), 5)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a\\b", ""])
def test_paths_are_checked_on_every_call(files: Files, path: str) -> None:
    for call in (files.read, files.size, lambda p: files.create(p, b""), lambda p: files.replace(p, b"")):
        with pytest.raises(FormatError):
            call(path)


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    files = connect(tmp_path)
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageError, match="taken"):
        files.create("taken/x", b"data")
    assert not files.create("taken", b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]


def test_a_storage_that_ignores_conditions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some object stores accept a conditional write and overwrite all the same."""
    from fsspec.implementations.memory import MemoryFileSystem

    files = connect(f"memory://{tmp_path.name}")
    files.check_writable()
    assert list(files.walk("")) == []
    honest = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda self, path, value, mode="overwrite": honest(self, path, value)
    )
    with pytest.raises(StorageError, match="overwrites files that must only be created"):
        files.check_writable()
    assert list(files.walk("")) == []


def test_a_storage_that_streams_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.spec import AbstractFileSystem

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", AbstractFileSystem.pipe_file)
    with pytest.raises(StorageError, match="can only stream files"):
        connect(f"memory://{tmp_path.name}").check_writable()


def test_storages_that_stream_are_told_from_those_that_put() -> None:
    """Asynchronous filesystems, S3's among them, have their put under another name."""
    from fsspec.implementations.ftp import FTPFileSystem
    from fsspec.implementations.memory import MemoryFileSystem
    from s3fs import S3FileSystem

    assert puts_whole_files(S3FileSystem)
    assert puts_whole_files(MemoryFileSystem)
    assert not puts_whole_files(FTPFileSystem)


def test_a_refusal_in_another_form_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs reports a failed precondition as OSError(EINVAL)."""
    from fsspec.implementations.memory import MemoryFileSystem

    files = connect(f"memory://{tmp_path.name}")
    files.create("a", b"1")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(22, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    assert not files.create("a", b"2")
    with pytest.raises(StorageError, match="pre-conditions"):
        files.create("b", b"2")


def test_urls() -> None:
    with pytest.raises(StorageError, match="chained"):
        connect("simplecache::s3://bucket/x")
    with pytest.raises((StorageError, MissingExtra)):
        connect("nosuchscheme://x").read("a")
