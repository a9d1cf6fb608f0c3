"""The marker `softcache.json` (docs/format.md, section 2)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from softcache.errors import FormatError, RecipeError, UnsupportedVersion
from softcache.store.documents import dump_document, read_document
from softcache.store.files import Files
from softcache.store.layout import MARKER, VERSION


@dataclass(frozen=True)
class Marker:
    """A marker that has been checked; `sha256` is the hash of its file."""

    cache_id: str
    sha256: str


def read_marker(files: Files) -> Marker | None:
    """Return the marker, None if there is none.

    Raises UnsupportedVersion if this version of softcache does not know the cache's format, FormatError or
    IntegrityError if the file is not a valid marker.
    """
    try:
        body, digest = read_document(files, MARKER)
    except FileNotFoundError:
        return None
    where = f"{files.url}/{MARKER}"
    if body.get("format") != "softcache" or not isinstance(body.get("cache_id"), str):
        raise FormatError(f"{where}: not a softcache marker")
    if (version := body.get("version")) != VERSION:
        raise UnsupportedVersion(
            f"{where}: needs format version {version!r}; this softcache supports version {VERSION}: install a newer one"
        )
    return Marker(body["cache_id"], digest)


def require_marker(files: Files) -> Marker:
    """Return the marker. Raises FormatError if there is none, and whatever `read_marker` raises."""
    marker = read_marker(files)
    if marker is None:
        raise FormatError(f"{files.url}: not a softcache cache: it has no {MARKER}")
    return marker


def check_output(files: Files) -> None:
    """Raise RecipeError if a cache is to be built in a folder that belongs to something else.

    An empty folder, none, and that of a cache are right.
    """
    there = files.names("")  # before the marker, which another builder may be about to write first of all
    if there and read_marker(files) is None:
        some = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
        raise RecipeError(
            f"{files.url}: not a softcache cache, and not empty (it has {some}); build in a new or empty folder"
        )


def ensure_marker(files: Files) -> Marker:
    """Return the marker; write it first if the cache is new. Of several builders that write it, the first one wins."""
    marker = read_marker(files)
    if marker is not None:
        return marker
    files.create(MARKER, dump_document({"format": "softcache", "version": VERSION, "cache_id": str(uuid.uuid4())}))
    marker = read_marker(files)
    if marker is None:
        raise FormatError(f"{files.url}/{MARKER}: disappeared right after it was written")
    return marker
