"""Manifests of a cache, changed, and whatever vouches for them made to fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softcache.store import arrow
from softcache.store.checksums import canonical_json, sha256
from softcache.store.documents import dump_document, load_document
from softcache.store.layout import hashed_path
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import Manifest, dump_manifest

RECORD = b"softcache.record"


def read_record(data: bytes) -> dict[str, Any]:
    """What a manifest says about its target."""
    found: dict[str, Any] = json.loads(arrow.load(data, "x").schema.metadata[RECORD])
    return found


def with_record(data: bytes, record: dict[str, Any]) -> bytes:
    """A manifest that says something else about its target."""
    batch = arrow.load(data, "x")
    metadata = batch.schema.metadata | {RECORD: canonical_json(record)}
    return bytes(arrow.dump(dict(zip(batch.schema.names, batch.columns, strict=True)), metadata))


def with_shards(data: bytes, target: str, change: Callable[[LiveShard], LiveShard]) -> bytes:
    """A manifest with other shards."""
    live = [change(one) for one in Manifest(data, target, "x").live()]
    record = arrow.load(data, "x").schema.metadata.get(RECORD)
    made = bytes(dump_manifest(target, live))
    return made if record is None else with_record(made, json.loads(record))


def change_record(cache: Path, commit: str, target: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a commit says about a target."""
    body = load_document((cache / commit).read_bytes(), "x")
    data = (cache / body["manifests"][target]["path"]).read_bytes()
    record = read_record(data)
    change(record)
    body["manifests"][target] = put(cache, with_record(data, record))
    (cache / commit).write_bytes(dump_document(body))


def put(cache: Path, data: bytes) -> dict[str, Any]:
    """Write a manifest; return how a commit names it."""
    path = hashed_path("manifests", sha256(data))
    (cache / path).parent.mkdir(parents=True, exist_ok=True)
    (cache / path).write_bytes(data)
    return {"path": path, "bytes": len(data), "sha256": sha256(data)}
