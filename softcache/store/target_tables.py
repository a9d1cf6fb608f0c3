"""Tables that all shards of a target share, stored once (docs/format.md, section 6.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from softcache.errors import FormatError, IntegrityError
from softcache.store import arrow
from softcache.store.condemned import in_force
from softcache.store.documents import dump_document, parse, read_document
from softcache.store.files import Files
from softcache.store.layout import hash_and_epoch, hashed_path, newest_first
from softcache.store.references import read_reference
from softcache.store.shards import CheckedFile, put_file
from softcache.store.writer import Writer


@dataclass(frozen=True)
class TargetTables:
    """The tables of one target: a file for each, by name."""

    target: str
    fingerprint: str
    tables: dict[str, CheckedFile]


def write_tables(out: Writer, target: str, fingerprint: str, tables: Mapping[str, pa.RecordBatch]) -> TargetTables:
    """Publish a target's tables; return those in force, which are another writer's if that writer was first."""
    stored = {
        name: put_file(out, "tables", arrow.dump(dict(zip(table.schema.names, table.columns, strict=True))))
        for name, table in tables.items()
    }
    body = {
        "target": target,
        "fingerprint": fingerprint,
        "tables": {name: file.to_json() for name, file in stored.items()},
    }
    path = hashed_path("tables", out.named(fingerprint), "json")
    if out.files.create(path, dump_document(body)):
        return TargetTables(target, fingerprint, stored)
    in_force = read_tables(out.files, path)
    keep_tables(out.files, target, in_force.tables.values(), path)
    return in_force


def keep_tables(files: Files, target: str, tables: Iterable[CheckedFile], document: str | None = None) -> None:
    """Touch the files of a target's tables, and the `document` that names them.

    Perhaps no receipt names the target yet: garbage collection then goes by their age. Raises IntegrityError if one is
    lost.
    """
    for path in (*([] if document is None else [document]), *(file.path for file in tables)):
        try:
            files.touch(path)
        except FileNotFoundError as e:
            raise IntegrityError(
                f"{files.url}/{path}: lost, and {target} was made with it; restore it, or build another cache"
            ) from e


def tables_paths(files: Files) -> dict[str, list[str]]:
    """Return the paths of the documents that name tables, by target fingerprint, those of the highest epoch first."""
    return newest_first(path for path, _, _ in files.walk("tables") if path.endswith(".json"))


def tables_in_force(files: Files, paths: Iterable[str], condemned: Collection[str]) -> tuple[str, TargetTables] | None:
    """Return the document in force of those of one target, and its path; None if there is none."""
    return in_force(paths, condemned, partial(read_tables, files), lambda document: document.tables.values())


def read_tables(files: Files, path: str) -> TargetTables:
    """Return the tables that a document names. Raises FileNotFoundError, IntegrityError, FormatError."""
    where, named = f"{files.url}/{path}", hash_and_epoch(path.rsplit("/", 1)[-1])
    found = parse(TargetTables, read_document(files, path)[0], where)
    if named is None or found.fingerprint != named[0]:
        raise FormatError(f"{where}: holds the tables of another target, {found.fingerprint}")
    return found


def open_table(files: Files, file: CheckedFile) -> pa.RecordBatch:
    """Return a table, memory-mapped and compared with its hash. Raises IntegrityError, FormatError."""
    return arrow.load(read_reference(files, file), f"{files.url}/{file.path}")
