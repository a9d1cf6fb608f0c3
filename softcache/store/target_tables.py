"""Tables that all shards of a target share, stored once (docs/format.md, section 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from softcache.errors import FormatError, IntegrityError
from softcache.store import arrow
from softcache.store.documents import dump_document, load_document, parse
from softcache.store.files import Files
from softcache.store.shards import CheckedFile, put_file
from softcache.store.state import read_reference


@dataclass(frozen=True)
class TargetTables:
    """The tables of one target: a file for each, by name."""

    target: str
    fingerprint: str
    tables: dict[str, CheckedFile]


def tables_path(fingerprint: str) -> str:
    """Return the path of the JSON file that names a target's tables."""
    return f"tables/{fingerprint}.json"


def write_tables(files: Files, target: str, fingerprint: str, tables: Mapping[str, pa.RecordBatch]) -> TargetTables:
    """Publish a target's tables; return those in force, which are another writer's if that writer was first."""
    stored = {
        name: put_file(files, "tables/", arrow.dump(dict(zip(table.schema.names, table.columns, strict=True))))
        for name, table in tables.items()
    }
    return keep_tables(files, restore_tables(files, target, fingerprint, stored))


def restore_tables(files: Files, target: str, fingerprint: str, tables: Mapping[str, CheckedFile]) -> TargetTables:
    """Publish which tables a target has, unless that is published already; return the tables in force."""
    body = {
        "target": target,
        "fingerprint": fingerprint,
        "tables": {name: file.to_json() for name, file in tables.items()},
    }
    if files.create(tables_path(fingerprint), dump_document(body)):
        return TargetTables(target, fingerprint, dict(tables))
    return read_tables(files, fingerprint)


def keep_tables(files: Files, tables: TargetTables) -> TargetTables:
    """Touch the files of a target's tables, so that garbage collection spares them, and return `tables`.

    Perhaps no receipt names the target yet. Raises IntegrityError if a file is lost.
    """
    for path in (tables_path(tables.fingerprint), *(file.path for file in tables.tables.values())):
        try:
            files.touch(path)
        except FileNotFoundError as e:
            raise IntegrityError(
                f"{files.url}/{path}: lost, and {tables.target} was made with it; restore it, or build another cache"
            ) from e
    return tables


def read_tables(files: Files, fingerprint: str) -> TargetTables:
    """Return the tables of the target with a fingerprint. Raises FileNotFoundError, IntegrityError, FormatError."""
    where = f"{files.url}/{tables_path(fingerprint)}"
    found = parse(TargetTables, load_document(files.read(tables_path(fingerprint)), where), where)
    if found.fingerprint != fingerprint:
        raise FormatError(f"{where}: holds the tables of another target, {found.fingerprint}")
    return found


def open_table(files: Files, file: CheckedFile) -> pa.RecordBatch:
    """Return a table, memory-mapped and compared with its hash. Raises IntegrityError, FormatError."""
    return arrow.load(read_reference(files, file), f"{files.url}/{file.path}")
