"""What every storage must do. tests/contract/test_files.py holds it for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from softcache.errors import IntegrityError
from softcache.store.checksums import Bytes, sha256


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
    def create(self, path: str, data: Bytes) -> bool:
        """Publish a whole file, durably. Returns False, and changes nothing, if the name is taken."""

    @abstractmethod
    def replace(self, path: str, data: Bytes) -> None:
        """Publish a whole file in place of another. For the card and local copies: all else is create-only."""

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

    @abstractmethod
    def settle(self, folder: str) -> None:
        """Make the names in a folder durable: whoever created them may have died before that."""

    def put(self, path: str, data: Bytes) -> None:
        """Publish a file whose path contains its hash; one that is already there is read back, compared and touched."""
        if self.create(path, data):
            return
        self.touch(path)
        if sha256(self.read(path)) != sha256(data):
            raise IntegrityError(
                f"{self.url}/{path}: this file's content is not what its name says; move it away and run again"
            )
