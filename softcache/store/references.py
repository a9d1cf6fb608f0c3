"""Reading a file that a commit names."""

from __future__ import annotations

import os
import stat

import pyarrow as pa

from softcache.errors import IntegrityError
from softcache.store.checksums import sha256
from softcache.store.files import Files
from softcache.store.shards import CheckedFile, StoredFile


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
        f"{files.url}/{reference.path}: its sha256 is not the one that was recorded; it was changed after writing"
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
