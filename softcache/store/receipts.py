"""Receipts: the create-only records that shards are done (docs/format.md, section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from softcache.errors import FormatError
from softcache.store.checksums import fingerprint
from softcache.store.declarations import Declaration, TargetDeclaration
from softcache.store.documents import dump_document, load_document, parse
from softcache.store.files import Files
from softcache.store.shards import Shard


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A shard and where it comes from: its target's declaration and fingerprint, skipped samples, library versions."""

    shard: Shard
    fingerprint: str
    declaration: Declaration
    skipped: list[tuple[Any, int, str]]
    versions: dict[str, str]


def unit_key(keys_sha256: str, target_fingerprint: str, *rows_only: str) -> str:
    """Return the unit key of a target's shard for a fragment (docs/format.md, section 3).

    For the target `rows`, `rows_only` is the hash of the fragment's kept hashes, and its split.
    """
    return fingerprint(["softcache", 1, keys_sha256, target_fingerprint, *rows_only])


def short_declaration(declaration: Declaration) -> Declaration:
    """Return a declaration with its labels replaced by their hash."""
    if "task" not in declaration:
        return declaration
    target = cast(TargetDeclaration, declaration)
    if target["task"]["labels"] is None:
        return target
    return {**target, "task": target["task"] | {"labels": fingerprint(target["task"]["labels"])}}


def write_receipt(files: Files, receipt: Receipt) -> Receipt:
    """Publish a receipt; return the one in force, which is another writer's if that writer was first."""
    shard = receipt.shard
    body = {
        "target": shard.target,
        "fingerprint": receipt.fingerprint,
        "declaration": short_declaration(receipt.declaration),
        "unit_key": shard.unit_key,
        "keys_sha256": shard.keys_sha256,
        "rows": shard.rows,
        "files": [f.to_json() for f in shard.files],
        "columns": [c.to_json() for c in shard.columns],
        "statistics": shard.statistics,
        "skipped": [list(s) for s in receipt.skipped],
        "versions": receipt.versions,
    }
    if files.create(_path(shard.unit_key), dump_document(body)):
        return receipt
    return read_receipt(files, shard.unit_key)


def read_receipt(files: Files, key: str) -> Receipt:
    """Read the receipt with a unit key. Raises FileNotFoundError, IntegrityError, FormatError."""
    path = _path(key)
    where = f"{files.url}/{path}"
    body = load_document(files.read(path), where)
    members = ("fingerprint", "declaration", "skipped", "versions")
    receipt = parse(Receipt, {"shard": body} | {name: body.get(name) for name in members}, where)
    shard = receipt.shard
    if shard.unit_key != key:
        raise FormatError(f"{where}: holds the receipt of another unit, {shard.unit_key}")
    return receipt


def receipt_keys(files: Files) -> set[str]:
    """Return the unit keys that have receipts."""
    return {name.removesuffix(".json") for name in files.names("receipts") if name.endswith(".json")}


def read_receipts(files: Files, keys: Iterable[str]) -> Iterator[Receipt]:
    """Read several receipts, in the order of `keys`."""
    return (read_receipt(files, key) for key in keys)


def _path(key: str) -> str:
    return f"receipts/{key}.json"
