"""Garbage that a commit condemns, before it is deleted (docs/format.md, section 12)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeVar

import pyarrow as pa

from softcache.errors import FormatError
from softcache.store import arrow
from softcache.store.commits import Commit
from softcache.store.files import Files
from softcache.store.references import read_reference
from softcache.store.shards import CheckedFile, put_file
from softcache.store.writer import Writer

T = TypeVar("T")
_TYPES = {"path": pa.string()}


def in_force(
    paths: Iterable[str],
    condemned: Container[str],
    read: Callable[[str], T],
    names: Callable[[T], Iterable[CheckedFile]],
) -> tuple[str, T] | None:
    """Return the first of some documents that garbage collection has spared, and its path; None if there is none.

    One that is condemned, or names a file that is, counts for nothing; perhaps it is gone already.
    """
    for path in paths:
        if path in condemned:
            continue
        try:
            found = read(path)
        except FileNotFoundError:  # condemned since
            continue
        if not any(file.path in condemned for file in names(found)):
            return path, found
    return None


def write_condemned(out: Writer, paths: Sequence[str]) -> CheckedFile:
    """Write the list of paths that a commit is about to condemn."""
    return put_file(out, "condemned", arrow.dump({"path": pa.array(sorted(paths), pa.string())}))


def read_condemned(files: Files, commit: Commit | None) -> frozenset[str]:
    """Return the paths of all files that a commit or one before it has condemned.

    Raises IntegrityError or FormatError.
    """
    found: set[str] = set()
    for part in () if commit is None else commit.condemned:
        where = f"{files.url}/{part.path}"
        batch = arrow.load(read_reference(files, part), where)
        if dict(zip(batch.schema.names, batch.schema.types, strict=True)) != _TYPES:
            raise FormatError(f"{where}: not a list of paths: its columns are {batch.schema.names}")
        found.update(batch["path"].to_pylist())
    return frozenset(found)
