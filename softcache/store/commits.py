"""Commits: numbered, create-only, each with the hash of its parent (docs/format.md, section 9)."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from softcache.errors import (
    CommitStateUnknown,
    FormatError,
    IntegrityError,
    StorageError,
    UnsupportedVersion,
)
from softcache.store.checksums import sha256
from softcache.store.declarations import AugmentationRecord, ParentCommit
from softcache.store.documents import MAX_BYTES, dump_document, parse, read_document
from softcache.store.files import Files
from softcache.store.layout import ROWS, commit_path, is_split_name, is_target_name
from softcache.store.shards import CheckedFile, StoredFile

FEATURES: frozenset[str] = frozenset()  # those that this version knows; format version 1 defines none
_NAME = re.compile(r"[0-9]{20}\.json\Z")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit, as its file holds it; `sha256` is the hash of that file."""

    number: int
    parent: ParentCommit | None
    marker_sha256: str
    plan: str
    manifests: dict[str, StoredFile]
    index: tuple[CheckedFile, ...]
    rows: int
    id_type: str
    keep: dict[str, str]
    views: int
    augmentation: AugmentationRecord | None
    splits: dict[str, int]
    transfer_set: dict[str, Any]
    reader_features: tuple[str, ...] = ()
    writer_features: tuple[str, ...] = ()
    epoch: int = 0
    condemned: tuple[StoredFile, ...] = ()
    dropped: list[list[Any]] = field(default_factory=list)
    transaction: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    sha256: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets but `rows`."""
        return tuple(name for name in self.manifests if name != ROWS)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the commit's file."""
        body = vars(self) | {
            "manifests": {name: manifest.to_json() for name, manifest in self.manifests.items()},
            "index": [segment.to_json() for segment in self.index],
            "condemned": [part.to_json() for part in self.condemned],
        }
        del body["sha256"]
        return body


def latest_number(files: Files) -> int:
    """Return the number of the newest commit, 0 if there is none. Raises FormatError if a number is missing."""
    names = ((path, path.rsplit("/", 1)[-1]) for path, _, _ in files.walk("commits"))
    numbers = [int(name[:20]) for path, name in names if _NAME.match(name) and path == commit_path(int(name[:20]))]
    if numbers and len(numbers) != max(numbers):
        raise FormatError(
            f"{files.url}/commits: {len(numbers)} commits, but the highest number is {max(numbers)}; some are missing"
        )
    return len(numbers)


def read_commit(files: Files, number: int) -> Commit:
    """Read a commit.

    Raises FileNotFoundError, IntegrityError, FormatError, and UnsupportedVersion if it has a feature that this version
    of softcache cannot read.
    """
    where = f"{files.url}/{commit_path(number)}"
    body, digest = read_document(files, commit_path(number))
    _check_features(body.get("reader_features"), "read", where)
    commit = replace(parse(Commit, body, where), sha256=digest)
    if commit.number != number or commit.id_type not in ("int64", "string") or commit.rows < 1 or not commit.index:
        raise FormatError(f"{where}: contradicts itself (its number, id type, rows or index)")
    if ROWS not in commit.manifests:
        raise FormatError(f"{where}: it has no manifest of rows")
    for name in (n for n in commit.targets if not is_target_name(n)):
        raise FormatError(f"{where}: {name!r:.300} is not the name of a target")
    for name in (n for n in commit.splits if not is_split_name(n)):
        raise FormatError(f"{where}: {name!r:.300} is not the name of a split")
    return commit


def check_may_write(files: Files, commit: Commit) -> None:
    """Raise UnsupportedVersion if a commit has a feature that this version of softcache cannot write on top of."""
    _check_features(commit.writer_features, "write to", f"{files.url}/{commit_path(commit.number)}")


def _check_features(features: Any, what: str, where: str) -> None:
    if not isinstance(features, list | tuple):
        raise FormatError(f"{where}: its features are {features!r:.100}; expected a list")
    if unknown := sorted({str(feature) for feature in features} - FEATURES):
        raise UnsupportedVersion(
            f"{where}: this softcache cannot {what} a cache with {', '.join(unknown)}: install a newer one"
        )


def check_parent(files: Files, commit: Commit, digest: str | None) -> None:
    """Raise IntegrityError unless a commit names the commit before it as its parent.

    `digest` is the SHA-256 of that commit's file, None if this is the first commit.
    """
    expected = None if digest is None else ParentCommit(number=commit.number - 1, sha256=digest)
    if commit.parent != expected:
        raise IntegrityError(f"{files.url}/{commit_path(commit.number)}: its parent is not the commit before it")


def publish(files: Files, commit: Commit) -> Commit | None:
    """Publish a commit in one atomic create; return it as it is on disk, or None if another commit has its number.

    Raises CommitStateUnknown if the storage fails and then cannot tell whether the commit exists; StorageError if it
    could not be published. Nothing is ever deleted, so the build can be run again.
    """
    path = commit_path(commit.number)
    data = dump_document(commit.to_json())
    refused: StorageError | None = None
    try:
        files.create(path, data)
    except StorageError as e:
        refused = e
    try:
        there = files.read(path, MAX_BYTES)
    except FileNotFoundError as e:
        raise refused or StorageError(f"{files.url}/{path}: disappeared right after it was written") from e
    except StorageError as e:
        raise CommitStateUnknown(
            f"{files.url}/{path}: it is not known whether this commit was published ({refused or e}); "
            "run the same build again"
        ) from e
    return replace(commit, sha256=sha256(data)) if there == data else None
