"""Files on a local disk."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from softcache.errors import StorageError
from softcache.store.checksums import BLOCK_BYTES, Bytes
from softcache.store.files.base import Files
from softcache.store.layout import TEMPORARY, check_path

_PART_BYTES = 32 * BLOCK_BYTES


class LocalFiles(Files):
    """Files on a local disk. `create` writes a temporary file, then calls fsync, link, and fsync of the directory."""

    def __init__(self, root: str) -> None:
        super().__init__(os.path.abspath(root))
        self.root = Path(self.url)
        self._durable_folders: set[Path] = set()

    def read(self, path: str, limit: int | None = None) -> bytes:
        with self._storage(path), open(self._at(path), "rb", opener=_open_regular) as file:
            if limit is not None and os.fstat(file.fileno()).st_size > limit:
                raise self._too_large(path, limit)
            return file.read()

    def parts(self, path: str) -> Iterator[bytes]:
        with self._storage(path), open(self._at(path), "rb", opener=_open_regular) as file:
            while part := file.read(_PART_BYTES):
                yield part

    def size(self, path: str) -> int | None:
        with self._storage(path):
            try:
                return self._at(path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def is_link(self, path: str) -> bool:
        place = self._at(path)
        # os.path.islink says no where pathlib raises: a forged path may be longer than names can be.
        return any(os.path.islink(p) for p in (place, *place.parents) if self.root in p.parents)

    def names(self, folder: str) -> list[str]:
        with self._storage(folder):
            try:
                top = self.root if folder == "" else self._at(folder)
                return sorted(n for n in os.listdir(top) if not n.startswith(TEMPORARY))
            except FileNotFoundError:
                return []

    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        yield from self._walk(self.root if folder == "" else self._at(folder), frozenset())

    def _walk(self, top: Path, links: frozenset[str]) -> Iterator[tuple[str, int, float]]:
        """Walk through a folder, and through what is linked in it; `links` are the linked folders above."""
        for parent, folders, names in os.walk(top):
            folders.sort()
            for name in folders:
                link = os.path.join(parent, name)
                if os.path.islink(link) and (real := os.path.realpath(link)) not in links:
                    yield from self._walk(Path(link), links | {real})
            inside = "" if Path(parent) == self.root else f"{Path(parent).relative_to(self.root).as_posix()}/"
            for name in sorted(names):
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(os.path.join(parent, name))
                    yield f"{inside}{name}", status.st_size, status.st_mtime

    def create(self, path: str, data: Bytes) -> bool:
        final = self._at(path)
        with self._storage(path, len(data)), self._staged(final, data) as temporary:
            try:
                os.link(temporary, final)
                return True
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
                # Also if the name was taken: the process that took it may have died before this.
                _sync_folder(final.parent)

    def touch(self, path: str) -> None:
        with self._storage(path):
            os.utime(self._at(path))

    def replace(self, path: str, data: Bytes) -> None:
        final = self._at(path)
        with self._storage(path, len(data)), self._staged(final, data) as temporary:
            os.replace(temporary, final)
            _sync_folder(final.parent)

    def delete(self, path: str) -> None:
        file = self.root / path
        with self._storage(path):
            file.unlink(missing_ok=True)
        # An empty folder must not look like a Zarr shard. Other folders stay: a builder may be about to write there.
        if ".zarr/" in path:
            with contextlib.suppress(OSError):
                for folder in itertools.takewhile(lambda p: ".zarr" in p.as_posix(), file.parents):
                    folder.rmdir()

    def settle(self, folder: str) -> None:
        with self._storage(folder), contextlib.suppress(FileNotFoundError):
            _sync_folder(self._at(folder))

    def local(self, path: str, digest: str, size: int) -> str:
        return str(self._at(path))

    def forget_local(self, digest: str) -> bool:
        return False

    def check_writable(self) -> None:
        """Look at the nearest folder that exists. Wherever a POSIX filesystem has `link`, it refuses a taken name."""
        existing = self._existing()
        if not existing.is_dir():
            raise StorageError(f"{self.root}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"{self.root}: you may not write to {existing}")

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self._existing()).free

    def _existing(self) -> Path:
        """Return the root, or the nearest of its parents that exists."""
        return next(p for p in (self.root, *self.root.parents) if os.path.lexists(p))

    def _at(self, path: str) -> Path:
        return self.root / check_path(path)

    @contextlib.contextmanager
    def _staged(self, final: Path, data: Bytes) -> Iterator[Path]:
        """Write `data` durably to a temporary file beside `final`; leave nothing behind if that fails."""
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
        """Make a folder and its parents durable.

        Below the root this covers folders that exist too: the process that made them may not have synced them yet.
        """
        if folder in self._durable_folders and folder.is_dir():
            return
        if self.root in folder.parents or not folder.parent.is_dir():
            self._make_folders(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileNotFoundError as e:  # though the parent is there: /proc is such a place
            raise StorageError(f"{folder}: this folder cannot be made: {e.strerror}") from e
        _sync_folder(folder.parent)
        self._durable_folders.add(folder)

    @contextlib.contextmanager
    def _storage(self, path: str, writing: int | None = None) -> Iterator[None]:
        """Turn OSError into StorageError. FileNotFoundError passes unchanged unless bytes are being written."""
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
    """Open a regular file; refuse anything else. Opening never blocks, as it would on a pipe."""
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
