"""What a shard says about itself, so that a file that lies alone can be read (docs/format.md, section 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from softcache.store.checksums import canonical_json
from softcache.store.declarations import TargetDeclaration, short_task
from softcache.store.layout import ROWS, VERSION

_KEY = "softcache"


def about_target(name: str, fingerprint: str, declaration: TargetDeclaration) -> dict[str, Any]:
    """Return what every shard of a target says about itself."""
    return {
        "version": VERSION,
        "target": name,
        "fingerprint": fingerprint,
        "task": short_task(declaration["task"]),
        "codec": declaration["codec"],
    }


def about_rows(fingerprint: str) -> dict[str, Any]:
    """Return what every shard of `rows` says about itself."""
    return {"version": VERSION, "target": ROWS, "fingerprint": fingerprint}


def arrow_metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """Return it as the schema metadata of an Arrow shard."""
    return {_KEY: canonical_json(about).decode()}


def zarr_attributes(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return it as the attributes of a Zarr group."""
    return {_KEY: dict(about)}


def read_about(schema: pa.Schema) -> dict[str, Any]:
    """Return what an Arrow shard says about itself, nothing if it says nothing that can be read."""
    try:
        found = json.loads((schema.metadata or {}).get(_KEY.encode(), b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
