"""Shards: what is recorded about each, and how columns become files. Knows columns, never what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import UnsupportedVersion
from softcache.measures import ShardStatistics
from softcache.store import arrow, zarr
from softcache.store.about import arrow_metadata, zarr_attributes
from softcache.store.buffers import Buffer, ListColumn
from softcache.store.checksums import Bytes, block_checksums, sha256
from softcache.store.layout import check_path, hashed_path, shard_path
from softcache.store.writer import Writer

FORMATS = ("arrow", "zarr")


def known_format(form: str, where: str) -> str:
    """Return the format of a target's shards. Raises UnsupportedVersion, which names `where`, for any other."""
    if form not in FORMATS:
        raise UnsupportedVersion(f"{where}: format {form!r:.100} is not known here; a newer softcache may read it")
    return form


@dataclass(frozen=True)
class StoredFile:
    """One file of a cache: its path, size in bytes and SHA-256. Raises FormatError if the path is not valid."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the file as receipts and commits hold it."""
        return dict(vars(self))


@dataclass(frozen=True)
class CheckedFile(StoredFile):
    """A file whose blocks can be checked one at a time: `blocks` are their CRC-32C."""

    blocks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"blocks": list(self.blocks)}


def describe_file(path: str, data: Bytes) -> CheckedFile:
    """Return the path, size, hash and block checksums of a file that is about to be written."""
    return CheckedFile(path, len(data), sha256(data), tuple(block_checksums(data, own_checksum_bytes(path))))


def own_checksum_bytes(path: str) -> int:
    """Return how many bytes at a file's end are its own CRC-32C: 4 for a Zarr chunk, otherwise 0.

    Block checksums leave these bytes out: the CRC of any data followed by their CRC is always the same number, and
    could not tell one chunk from another.
    """
    return 4 if "/c/" in path.partition(".zarr/")[2] else 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One target's values for one fragment, as receipts and manifests record it."""

    target: str
    unit_key: str
    keys_sha256: str
    rows: int
    files: tuple[CheckedFile, ...]
    columns: tuple[Buffer, ...]
    statistics: ShardStatistics = field(compare=False)

    @property
    def bytes(self) -> int:
        """The size of all files together, in bytes."""
        return sum(f.bytes for f in self.files)


@dataclass(frozen=True)
class ShardPlace:
    """What the path of a shard is made of, besides its hash."""

    target: str
    split: str
    fragment: int

    def path(self, out: Writer, digest: str) -> str:
        """Return the path, without its suffix, of a new shard with a hash."""
        return shard_path(self.target, self.split, self.fragment, out.named(digest))


def write_shard(
    out: Writer,
    form: str,
    place: ShardPlace,
    values: Mapping[str, Array | ListColumn],
    valid: Array,
    sample_ids: pa.Array,
    views: Array,
    about: Mapping[str, Any],
    fills: Mapping[str, float | int],
) -> tuple[tuple[CheckedFile, ...], tuple[Buffer, ...]]:
    """Write one target's shard durably; return its files, and where its columns lie in them.

    `about` says what the shard is. `form` is `arrow` or `zarr`. `values` are the codec's columns in order, each
    [rows, ...]; only Arrow shards can hold lists. `valid` is bool [rows], `sample_ids` int64 or string [rows], `views`
    int32 [rows]. `fills`, by column, become the fill values of Zarr arrays; Arrow has none.
    """
    if form == "arrow":
        data, columns = arrow.encode(values, valid, sample_ids, views, arrow_metadata(about))
        return (put_shard(out, place, data),), columns
    arrays = {name: column for name, column in values.items() if not isinstance(column, ListColumn)}
    parts, columns = zarr.encode(arrays, valid, sample_ids, views, zarr_attributes(about), fills)
    digest = sha256(zarr.listing({name: sha256(part) for name, part in parts.items()}))
    stored = []
    for name, part in parts.items():
        file = describe_file(f"{place.path(out, digest)}.zarr/{name}", part)
        out.files.put(file.path, part)
        stored.append(file)
    return tuple(stored), columns


def put_shard(out: Writer, place: ShardPlace, data: Bytes) -> CheckedFile:
    """Write an Arrow shard durably."""
    digest = sha256(data)
    return _put(out, f"{place.path(out, digest)}.arrow", digest, data)


def put_file(out: Writer, folder: str, data: Bytes) -> CheckedFile:
    """Write an Arrow file durably to a folder, under the hash of its content."""
    digest = sha256(data)
    return _put(out, hashed_path(folder, out.named(digest)), digest, data)


def _put(out: Writer, path: str, digest: str, data: Bytes) -> CheckedFile:
    out.files.put(path, data)
    return CheckedFile(path, len(data), digest, tuple(block_checksums(data)))
