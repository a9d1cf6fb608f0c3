"""Files on an fsspec filesystem. The only module that touches fsspec."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from softcache.errors import IntegrityError, MissingExtra, StorageError
from softcache.store.checksums import Bytes, sha256
from softcache.store.files.base import Files
from softcache.store.files.local import LocalFiles
from softcache.store.layout import TEMPORARY, check_path

log = logging.getLogger("softcache")


class RemoteFiles(Files):
    """Files on an fsspec filesystem. `create` is one put of the whole file, which must fail if the name is taken."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        self._open: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_open": None}

    def read(self, path: str, limit: int | None = None) -> bytes:
        if limit is not None and (size := self.size(path)) is not None and size > limit:
            raise self._too_large(path, limit)
        return bytes(self._call(path, lambda fs, p: fs.cat_file(p)))

    def size(self, path: str) -> int | None:
        try:
            return int(self._call(path, lambda fs, p: fs.info(p))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            found = self._call(folder or None, lambda fs, p: fs.ls(p, detail=False, refresh=True))
        except FileNotFoundError:
            return []
        return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in found)

    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        try:
            found = self._call(folder or None, _find)
        except FileNotFoundError:
            return
        top = self._filesystem()[1]
        for p in sorted(found):
            info = found[p]
            changed = info.get("created") or info.get("LastModified") or info.get("mtime")
            seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0)
            yield str(p)[len(top) :].lstrip("/"), int(info["size"]), seconds

    def create(self, path: str, data: Bytes) -> bool:
        try:
            self._call(path, lambda fs, p: fs.pipe_file(p, bytes(data), mode="create"))
        except FileExistsError:
            return False
        except StorageError:
            # Every backend reports a taken name in its own way, so ask, and never take a failure for a success.
            if self.size(path) is None:
                raise
            return False
        return True

    def check_writable(self) -> None:
        if not puts_whole_files(type(self._filesystem()[0])):
            raise StorageError(
                f"{self.url}: this storage can only stream files, not publish them whole, so a failure would "
                "leave half a file; build on a local disk and copy the finished cache there"
            )
        probe = f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            self.create(probe, b"1")
            first = self.read(probe)
            self.create(probe, b"2")
            honoured = first == self.read(probe) == b"1"  # an answer may be lost: what counts is what is there
        except FileNotFoundError as e:
            raise StorageError(f"{self.url}: a file that was created is not there; look at the storage") from e
        finally:
            self.delete(probe)
        if not honoured:
            raise StorageError(
                f"{self.url}: this storage overwrites files that must only be created, so two builders could "
                "destroy each other's commits; build on a local disk and copy the finished cache there"
            )

    def replace(self, path: str, data: Bytes) -> None:
        self._call(path, lambda fs, p: fs.pipe_file(p, bytes(data)))

    def touch(self, path: str) -> None:
        """Do nothing: object stores cannot. The minimum age and the second look at receipts protect files from `gc`."""

    def settle(self, folder: str) -> None:
        """Do nothing: what a put has published is durable."""

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(path, lambda fs, p: fs.rm_file(p))

    def local(self, path: str, digest: str, size: int) -> str:
        fetched, name = LocalFiles(_local_copies()), _copy_of(digest)
        if fetched.size(name) != size:
            data = self.read(path)
            if sha256(data) != digest:
                raise IntegrityError(f"{self.url}/{path}: its sha256 is not {digest}; fetch it again or restore it")
            fetched.replace(name, data)
        return str(fetched.root / name)

    def forget_local(self, digest: str) -> bool:
        fetched, name = LocalFiles(_local_copies()), _copy_of(digest)
        if fetched.size(name) is None:
            return False
        log.warning("%s/%s: a damaged copy of a file of %s; it is fetched again", fetched.root, name, self.url)
        fetched.delete(name)
        return True

    def free_bytes(self) -> int | None:
        return None

    def _filesystem(self) -> tuple[Any, str]:
        """Return the filesystem and the root's path on it. A forked process opens its own: clients do not survive."""
        if self._open is None or self._open[0] != os.getpid():
            import fsspec

            try:
                fs, root = fsspec.core.url_to_fs(self.url)
            except ImportError as e:
                scheme = self.url.split("://", 1)[0]
                extra = (
                    "pip install 'softcache[s3]'"
                    if scheme in ("s3", "s3a")
                    else f"a package that gives fsspec the protocol {scheme!r}"
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


def _copy_of(digest: str) -> str:
    """Return the path of the local copy of a file, inside the folder of all copies."""
    return f"files/{digest[:2]}/{digest}"


def _local_copies() -> str:
    """Return the folder of the copies of remote files. Raises StorageError if there is no home to have it in."""
    if root := os.environ.get("SOFTCACHE_HOME"):
        return root
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise StorageError("copies of remote files need a folder, and there is no home: set SOFTCACHE_HOME")
    return os.path.join(home, ".cache", "softcache")


def puts_whole_files(filesystem: type) -> bool:
    """Whether an fsspec filesystem puts whole files in one step; fsspec's default streams into an open file instead."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    own_async = getattr(filesystem, "_pipe_file", AsyncFileSystem._pipe_file) is not AsyncFileSystem._pipe_file
    return own_async or getattr(filesystem, "pipe_file", None) is not AbstractFileSystem.pipe_file


def _find(fs: Any, path: str) -> Any:
    """List all files below a path as they are now: filesystems keep listings."""
    fs.invalidate_cache()
    return fs.find(path, detail=True)
