"""Receipts: the create-only records that shards are done (docs/format.md, section 6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from softcache.errors import FormatError
from softcache.store.checksums import fingerprint
from softcache.store.condemned import in_force
from softcache.store.declarations import Declaration, short_declaration
from softcache.store.documents import dump_document, parse, read_document
from softcache.store.files import Files
from softcache.store.layout import hash_and_epoch, hashed_path, newest_first
from softcache.store.shards import Shard
from softcache.store.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A shard and where it comes from: its target's declaration and fingerprint, skipped samples, library versions.

    `epoch` is that of its writer.
    """

    shard: Shard
    fingerprint: str
    declaration: Declaration
    skipped: list[tuple[Any, int, str]]
    versions: dict[str, str]
    epoch: int


def unit_key(keys_sha256: str, target_fingerprint: str, *rows_only: str) -> str:
    """Return the unit key of a target's shard for a fragment (docs/format.md, section 3).

    For the target `rows`, `rows_only` is the hash of the fragment's kept hashes, and its split.
    """
    return fingerprint(["softcache", 1, keys_sha256, target_fingerprint, *rows_only])


def write_receipt(out: Writer, receipt: Receipt) -> Receipt:
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
    path = receipt_path(out, shard.target, shard.unit_key)
    if out.files.create(path, dump_document(body)):
        return receipt
    return read_receipt(out.files, path)


def receipt_path(out: Writer, target: str, key: str) -> str:
    """Return the path of a new receipt for a unit key of a target."""
    return hashed_path(f"receipts/{target}", out.named(key), "json")


def read_receipt(files: Files, path: str) -> Receipt:
    """Read a receipt. Raises FileNotFoundError, IntegrityError, FormatError."""
    where, named = f"{files.url}/{path}", hash_and_epoch(path.rsplit("/", 1)[-1])
    assert named is not None, f"{path} is not the path of a receipt"
    key, epoch = named
    body, _ = read_document(files, path)
    members = ("fingerprint", "declaration", "skipped", "versions")
    receipt = parse(Receipt, {"shard": body, "epoch": epoch} | {name: body.get(name) for name in members}, where)
    if receipt.shard.unit_key != key or receipt.shard.target != path.split("/")[1]:
        raise FormatError(
            f"{where}: holds the receipt of another unit, {receipt.shard.unit_key} of {receipt.shard.target}"
        )
    return receipt


def receipt_paths(files: Files, targets: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Return the paths of the receipts for each unit key, those of the highest epoch first; perhaps of some targets."""
    folders = ["receipts"] if targets is None else [f"receipts/{target}" for target in targets]
    paths = (path for folder in folders for path, _, _ in files.walk(folder))
    return newest_first(path for path in paths if path.count("/") == 3)


def receipts_in_force(
    files: Files, paths: Iterable[Collection[str]], condemned: Collection[str]
) -> Iterator[tuple[str, Receipt]]:
    """Yield the receipt in force of each unit, and its path; nothing for a unit that has none."""
    for of_unit in paths:
        found = in_force(of_unit, condemned, partial(read_receipt, files), lambda receipt: receipt.shard.files)
        if found is not None:
            yield found
