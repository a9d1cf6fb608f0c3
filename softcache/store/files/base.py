"""What every storage must do. tests/contract/test_files.py tests it for each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from softcache.errors import FormatError, IntegrityError
from softcache.store.checksums import Bytes, sha256


class Files(ABC):
    """The files below one root. Paths are those of docs/format.md, section 1, and are checked on every call.

    Every method raises StorageError if the storage refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def read(self, path: str, limit: int | None = None) -> bytes:
        """Return a file's bytes. Raises FileNotFoundError, and FormatError if there are more than `limit`."""

    def parts(self, path: str) -> Iterator[bytes]:
        """Yield a file's bytes, in parts of whole blocks where that saves memory. Raises as `read`."""
        yield self.read(path)

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist."""

    def is_link(self, path: str) -> bool:
        """Whether a file, or a folder that it is in, is a symbolic link."""
        return False

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the names in a folder ("": the root), sorted; none if the folder does not exist."""

    @abstractmethod
    def walk(self, folder: str) -> Iterator[tuple[str, int, float]]:
        """Yield path, bytes and time of change (seconds since the epoch) of all files below a folder ("": the root)."""

    @abstractmethod
    def create(self, path: str, data: Bytes) -> bool:
        """Publish a whole file durably. Returns False, and changes nothing, if the name is taken."""

    @abstractmethod
    def replace(self, path: str, data: Bytes) -> None:
        """Publish a whole file, replacing any other. Only for the card and local copies: all else is create-only."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file if it exists. Only for garbage collection, and for the probe of `check_writable`."""

    @abstractmethod
    def local(self, path: str, digest: str, size: int) -> str:
        """Return a path on this machine for a file with the SHA-256 `digest` and `size` bytes.

        A remote file is fetched and compared with its hash. Raises IntegrityError if it differs.
        """

    @abstractmethod
    def forget_local(self, digest: str) -> bool:
        """Delete the local copy of a remote file, which is damaged; return whether there was one."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise StorageError, which says why, unless files can be created here and are never overwritten."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free space in bytes, None if the storage has no such limit."""

    @abstractmethod
    def touch(self, path: str) -> None:
        """Mark a file as changed now, if the storage can, so that garbage collection spares it for its next user."""

    @abstractmethod
    def settle(self, folder: str) -> None:
        """Make the names in a folder durable: the process that created them may have died before it did so."""

    def _too_large(self, path: str, limit: int) -> FormatError:
        return FormatError(f"{self.url}/{path}: more than {limit:,} bytes, which is all that softcache reads of it")

    def put(self, path: str, data: Bytes) -> None:
        """Publish a file whose path contains its hash. If it already exists, touch it and compare its content.

        Raises IntegrityError if the content differs.
        """
        if self.create(path, data):
            return
        self.touch(path)
        if sha256(self.read(path)) != sha256(data):
            raise IntegrityError(
                f"{self.url}/{path}: this file's content is not what its name says; move it away and run again"
            )
