"""The state that a commit publishes: marker, commit and manifest, checked against each other."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import pyarrow as pa

from softcache.errors import FormatError, IncompleteCache, IntegrityError
from softcache.store.checksums import sha256
from softcache.store.commits import Commit, check_parent, latest_number, read_commit
from softcache.store.documents import MAX_BYTES
from softcache.store.files import Files
from softcache.store.layout import MARKER, commit_path
from softcache.store.manifest import Manifest
from softcache.store.marker import Marker, require_marker
from softcache.store.receipts import receipt_paths
from softcache.store.shards import CheckedFile, StoredFile


def committed_unit_keys(files: Files) -> set[str]:
    """Return the unit keys of all shards that any commit names."""
    keys: set[str] = set()
    for number in range(1, latest_number(files) + 1):
        manifest = read_commit(files, number).manifest
        keys |= Manifest(read_reference(files, manifest), f"{files.url}/{manifest.path}").unit_keys()
    return keys


@dataclass(frozen=True, eq=False)
class State:
    """One commit of a cache, with the marker and the manifest."""

    marker: Marker
    commit: Commit
    manifest: Manifest


def read_state(files: Files, number: int | None = None) -> State:
    """Read commit `number`, by default the newest, and its manifest.

    Raises FormatError if this is not a cache or has no such commit, IncompleteCache if nothing is committed yet,
    IntegrityError if hashes do not match.
    """
    marker = require_marker(files)
    latest = latest_number(files)
    if latest == 0:
        done = len(receipt_paths(files))
        raise IncompleteCache(
            f"{files.url}: nothing is committed yet ({done:,} shards are done); run the same build again to finish it"
        )
    if number is not None and not 1 <= number <= latest:
        raise FormatError(f"{files.url}: there is no commit {number}; the newest is {latest}")
    commit = read_commit(files, number or latest)
    if commit.marker_sha256 != marker.sha256:
        raise IntegrityError(f"{files.url}/{MARKER}: not the marker that commit {commit.number} was made with")
    if number is None and latest > 1:
        check_parent(files, commit, sha256(files.read(commit_path(latest - 1), MAX_BYTES)))
    manifest = Manifest(read_reference(files, commit.manifest), f"{files.url}/{commit.manifest.path}")
    return State(marker, commit, manifest)


def read_reference(files: Files, reference: StoredFile | CheckedFile, *, check: bool = True) -> pa.Buffer:
    """Map a file that a commit names. A local copy of a remote file that is damaged is fetched once more.

    Raises IntegrityError if it is missing or has another size, or with `check` if its content has changed.
    """
    data = _mapped(files, reference)
    if not check or sha256(memoryview(data)) == reference.sha256:
        return data
    if files.forget_local(reference.sha256):
        data = _mapped(files, reference)
        if sha256(memoryview(data)) == reference.sha256:
            return data
    raise IntegrityError(
        f"{files.url}/{reference.path}: its sha256 is not the one in the commit; it was changed after writing"
    )


def _mapped(files: Files, reference: StoredFile) -> pa.Buffer:
    where = f"{files.url}/{reference.path}"
    try:
        path = files.local(reference.path, reference.sha256, reference.bytes)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for someone to write
            raise IntegrityError(f"{where}: not a regular file")
        with pa.memory_map(path) as f:
            data = f.read_buffer()
    except FileNotFoundError as e:
        raise IntegrityError(f"{where}: missing; a commit names it") from e
    except OSError as e:
        raise IntegrityError(f"{where}: cannot be mapped: {e}") from e
    if len(data) != reference.bytes:
        raise IntegrityError(f"{where}: {len(data):,} bytes; the commit says {reference.bytes:,}")
    return data
