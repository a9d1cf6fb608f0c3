"""Files of a cache, on a local disk or any fsspec filesystem. The only module that touches fsspec.

Nothing here is ever opened for writing in place: `create` publishes whole files and never overwrites one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softcache.errors import IntegrityError, MissingExtra, StorageError
from softcache.store.checksums import sha256
from softcache.store.layout import TEMPORARY, check_path


class Files(ABC):
    """The files below one root. Paths are those of docs/format.md, checked on every call.

    Every method raises StorageError where the storage refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, None if there is none."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; an absent folder has none."""

    @abstractmethod
    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Yield path, bytes and time of change (seconds since the epoch) of all files below a folder ("": the root)."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Publish a whole file, durably. Returns False, and changes nothing, if the name is taken."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Publish a whole file in place of another. For the card alone: everything else is create-only."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, if it is there. For garbage collection alone."""

    @abstractmethod
    def local(self, path: str, digest: str, size: int) -> str:
        """Return a path on this machine of a file, by its SHA-256 and size; a remote one is fetched and checked."""

    @abstractmethod
    def check_create_only(self) -> None:
        """Raise StorageError unless `create` really refuses a name that is taken."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free space, None where there is no such thing."""

    @abstractmethod
    def touch(self, path: str) -> None:
        """Make a file young again where the storage can, so that garbage collection leaves it to its next user."""

    def put(self, path: str, data: bytes) -> None:
        """Publish a file whose path contains its hash; one that is already there is read back, compared and touched."""
        if self.create(path, data):
            return
        self.touch(path)
        if sha256(self.read(path)) != sha256(data):
            raise IntegrityError(
                f"{self.url}/{path}: this file's content is not what its name says; move it away and run again"
            )


def connect(url: str | os.PathLike[str]) -> Files:
    """Return the files at a path or fsspec URL. Nothing is read or created."""
    text = os.fspath(url)
    if not text or "\0" in text:
        raise StorageError(f"{text!r} is not the path or URL of a cache")
    if "://" not in text:
        return LocalFiles(text)
    if "::" in text:
        raise StorageError(f"{text}: chained URLs are not supported; give the URL of the cache itself")
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return LocalFiles(text.removeprefix(scheme))
    return RemoteFiles(text)


class LocalFiles(Files):
    """Files on a local disk. `create` is temporary file, fsync, link, fsync of the directory."""

    def __init__(self, root: str) -> None:
        super().__init__(os.path.abspath(root))
        self.root = Path(self.url)
        self._durable_folders: set[Path] = set()

    def read(self, path: str) -> bytes:
        with self._storage(path), open(self._at(path), "rb", opener=_open_regular) as file:
            return file.read()

    def size(self, path: str) -> int | None:
        with self._storage(path):
            try:
                return self._at(path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, folder: str) -> list[str]:
        with self._storage(folder):
            try:
                return sorted(n for n in os.listdir(self._at(folder)) if not n.startswith(TEMPORARY))
            except FileNotFoundError:
                return []

    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        top = self.root if folder == "" else self._at(folder)
        for parent, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                file = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    status = file.stat()
                    yield file.relative_to(self.root).as_posix(), status.st_size, status.st_mtime

    def create(self, path: str, data: bytes) -> bool:
        final = self._at(path)
        with self._storage(path, len(data)), self._staged(final, data) as temporary:
            try:
                os.link(temporary, final)
                return True
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
                # Also where the name was taken: whoever took it may have died before this.
                _sync_folder(final.parent)

    def touch(self, path: str) -> None:
        with self._storage(path):
            os.utime(self._at(path))

    def replace(self, path: str, data: bytes) -> None:
        final = self._at(path)
        with self._storage(path, len(data)), self._staged(final, data) as temporary:
            os.replace(temporary, final)
            _sync_folder(final.parent)

    def delete(self, path: str) -> None:
        file = self.root / path
        with self._storage(path):
            file.unlink(missing_ok=True)
        # An emptied Zarr shard must not look like one; other folders stay, since a builder may be about to write there.
        if ".zarr/" in path:
            with contextlib.suppress(OSError):
                for folder in itertools.takewhile(lambda p: ".zarr" in p.as_posix(), file.parents):
                    folder.rmdir()

    def local(self, path: str, digest: str, size: int) -> str:
        return str(self._at(path))

    def check_create_only(self) -> None:
        """`link` refuses a name that is taken on every POSIX filesystem that has it."""

    def free_bytes(self) -> int | None:
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        return shutil.disk_usage(existing).free

    def _at(self, path: str) -> Path:
        return self.root / check_path(path)

    @contextlib.contextmanager
    def _staged(self, final: Path, data: bytes) -> Iterator[Path]:
        """Write `data` durably beside `final`; leave nothing behind if that fails."""
        self._make_folders(final.parent)
        temporary = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def _make_folders(self, folder: Path) -> None:
        """Make a folder and its parents up to the root, durably, whoever else is making them too."""
        if folder in self._durable_folders and folder.is_dir():
            return
        if folder != self.root:
            self._make_folders(folder.parent)
        folder.mkdir(parents=folder == self.root, exist_ok=True)
        _sync_folder(folder.parent)
        self._durable_folders.add(folder)

    @contextlib.contextmanager
    def _storage(self, path: str, writing: int | None = None) -> Iterator[None]:
        """Turn the system's errors into StorageError; a file that is absent stays so unless bytes are being written."""
        try:
            yield
        except OSError as e:
            if writing is None and isinstance(e, FileNotFoundError):
                raise
            hint = ""
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                hint = f"; {writing:,} bytes were to be written"
            elif writing is not None and e.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                hint = "; the filesystem must allow hard links, which make a write atomic"
            raise StorageError(f"{self.root / path}: {e.strerror or e}{hint}") from e


def _open_regular(path: str, flags: int) -> int:
    """Open a file without waiting, as a pipe in its place would make one do."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFiles(Files):
    """Files on an fsspec filesystem. `create` is one whole put that must fail if the name is taken."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        self._open: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_open": None}

    def read(self, path: str) -> bytes:
        return bytes(self._call(path, lambda fs, p: fs.cat_file(p)))

    def size(self, path: str) -> int | None:
        try:
            return int(self._call(path, lambda fs, p: fs.info(p))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            found = self._call(folder, lambda fs, p: fs.ls(p, detail=False, refresh=True))
        except FileNotFoundError:
            return []
        return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in found)

    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        try:
            found = self._call(folder or None, lambda fs, p: fs.find(p, detail=True))
        except FileNotFoundError:
            return
        top = self._filesystem()[1]
        for p in sorted(found):
            info = found[p]
            changed = info.get("created") or info.get("LastModified") or info.get("mtime")
            seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0)
            yield str(p)[len(top) :].lstrip("/"), int(info["size"]), seconds

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._call(path, lambda fs, p: fs.pipe_file(p, data, mode="create"))
        except FileExistsError:
            return False
        except StorageError:
            # Backends report a taken name each in their own way: ask, and never take a failure for a success.
            if self.size(path) is None:
                raise
            return False
        return True

    def check_create_only(self) -> None:
        from fsspec.spec import AbstractFileSystem

        if type(self._filesystem()[0]).pipe_file is AbstractFileSystem.pipe_file:
            raise StorageError(
                f"{self.url}: this storage can only stream files, not publish them whole, so that a failure would "
                "leave half a file; build on a local disk and copy the finished cache there"
            )
        probe = f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            honoured = self.create(probe, b"1") and not self.create(probe, b"2")
        finally:
            self.delete(probe)
        if not honoured:
            raise StorageError(
                f"{self.url}: this storage overwrites files that must only be created, so that two builders could "
                "destroy each other's commits; build on a local disk and copy the finished cache there"
            )

    def replace(self, path: str, data: bytes) -> None:
        self._call(path, lambda fs, p: fs.pipe_file(p, data))

    def touch(self, path: str) -> None:
        """Object stores cannot; their garbage collection has the age floor and its second look at the receipts."""

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(path, lambda fs, p: fs.rm_file(p))

    def local(self, path: str, digest: str, size: int) -> str:
        root = os.environ.get("SOFTCACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "softcache")
        fetched = LocalFiles(root)
        name = f"files/{digest[:2]}/{digest}"
        if fetched.size(name) != size:
            data = self.read(path)
            if sha256(data) != digest:
                raise IntegrityError(f"{self.url}/{path}: its sha256 is not {digest}; fetch it again or restore it")
            fetched.replace(name, data)
        return str(fetched.root / name)

    def free_bytes(self) -> int | None:
        return None

    def _filesystem(self) -> tuple[Any, str]:
        """Return the filesystem and the root's path on it, new in every process: clients do not survive a fork."""
        if self._open is None or self._open[0] != os.getpid():
            import fsspec

            try:
                fs, root = fsspec.core.url_to_fs(self.url)
            except ImportError as e:
                scheme = self.url.split("://", 1)[0]
                extra = (
                    "pip install 'softcache[s3]'"
                    if scheme in ("s3", "s3a")
                    else f"a package that gives fsspec {scheme!r}"
                )
                raise MissingExtra(f"{self.url}: {e}; install {extra}") from e
            except ValueError as e:
                raise StorageError(f"{self.url}: {e}") from e
            self._open = (os.getpid(), fs, root)
        return self._open[1], self._open[2]

    def _call(self, path: str | None, action: Callable[[Any, str], Any]) -> Any:
        fs, root = self._filesystem()
        full = root if path is None else f"{root}/{check_path(path)}"
        try:
            return action(fs, full)
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as e:
            raise StorageError(f"{self.url}/{path or ''}: {e!r}") from e
