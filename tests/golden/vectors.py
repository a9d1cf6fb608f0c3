"""What a reader in another language compares itself with: `vectors.json`, beside the golden caches.

Text is UTF-8. Hashes are hexadecimal, integers beyond 2^53 decimal strings, logs of 0 the string "-inf".
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import softcache
from softcache.codecs.bits import decode_gaps
from softcache.codecs.sketch import decode_nodes
from softcache.store.checksums import canonical_json, crc32c, sha256
from softcache.store.files import connect
from softcache.store.keys import index_keys
from softcache.store.layout import ROWS
from softcache.store.state import read_state
from softcache.transfer.augmentation import view_seed
from softcache.transfer.content import hash_rows
from softcache.transfer.view_checks import check_of

HERE = Path(__file__).parent
TEMPERATURES = (0.5, 0.77, 1.0, 2.0, 20.0)
JSON = [
    {"b": 1, "a": [True, None, 'é\n"\\\u0001'], "á": {}},
    [0, -1, 2**63, 1.0, 0.1, 1e-4, 1e-05, 1.5e16, 123456789012345680.0, -0.0, 1e300],
]
# Columns of one row each: the Arrow type and the value, bytes in hexadecimal.
COLUMNS: list[dict[str, tuple[str, Any]]] = [
    {"a": ("int64", -5), "b": ("uint64", 2**64 - 1), "c": ("bool", True), "d": ("string", "é")},
    {"a": ("float16", 0.5), "b": ("float32", 0.5), "c": ("float64", None), "d": ("binary", "00ff")},
    {"x": ("list<float32>", [1.0, 2.0])},
    {"x": ("list<float32>", [1.0, None])},
    {"x": ("list<string>", ["a", ""])},
    {"x": ("fixed<int32>[2]", [1, 2])},
    {"x": ("fixed<int32>[2]", [1, None])},
    {"x": ("struct<b: int64, a: string>", {"b": 1, "a": "x"})},
    {"x": ("timestamp[ms]", 1_700_000_000_000)},
    {"x": ("date32", 19_000)},
    {"x": ("list<bool>", [True, False])},
]
TYPES = {
    "list<float32>": pa.list_(pa.float32()),
    "list<string>": pa.list_(pa.string()),
    "list<bool>": pa.list_(pa.bool_()),
    "fixed<int32>[2]": pa.list_(pa.int32(), 2),
    "struct<b: int64, a: string>": pa.struct([("b", pa.int64()), ("a", pa.string())]),
    "timestamp[ms]": pa.timestamp("ms"),
    "date32": pa.date32(),
}


def vectors() -> dict[str, Any]:
    """Return all vectors."""
    return {
        "canonical_json": [
            {"value": v, "text": canonical_json(v).decode(), "sha256": sha256(canonical_json(v))} for v in JSON
        ],
        "crc32c": [{"text": text, "crc": crc32c(text.encode())} for text in ("", "123456789", "view")],
        "content_hashes": [{"columns": columns, "sha256": _content(columns)} for columns in COLUMNS],
        "index_keys": [
            {"id": i, "key": str(index_keys(pa.array([i]))[0])} for i in ("a", "äöü", "a sample id", "12345678")
        ],
        "view_seeds": [
            {"seed": seed, "id": i, "view": view, "s": str(view_seed(seed, i, view))}
            for seed, i, view in ((0, 7, 0), (-3, 7, 2), (1, "äöü", 1))
        ],
        "view_checks": [
            {
                "dtype": str(view.dtype).removeprefix("torch."),
                "shape": list(view.shape),
                "values": view.flatten().tolist(),
                "check": check_of(view).hex(),
            }
            for view in (
                torch.tensor([[1.0, -2.0], [0.5, 4.0]]),
                torch.tensor([0, 255, 7], dtype=torch.uint8),
                torch.zeros(3),
            )
        ],
        "gap_codes": [
            {"code": code, "gap": _number(decode_gaps(torch.tensor(code)))}
            for code in (0, 1, 49_152, 49_153, 65_533, 65_534)
        ],
        "sketch_codes": [
            {"code": code, "log_sum": _number(decode_nodes(torch.tensor(code)))} for code in (0, 1, 40_000)
        ],
        "caches": {name: _cache(name) for name in ("v1", "views", "words")},
    }


def _content(columns: dict[str, tuple[str, Any]]) -> str:
    return hash_rows(pa.table({name: _column(*each) for name, each in columns.items()}), 1)[0].tobytes().hex()


def _column(kind: str, value: Any) -> pa.Array:
    arrow_type = TYPES.get(kind) or pa.type_for_alias(kind)
    return pa.array([bytes.fromhex(value) if kind == "binary" else value], arrow_type)


def _cache(name: str) -> dict[str, Any]:
    cache = softcache.open(HERE / name)
    ids = cache.rows.table()["sample_id"].to_pylist()
    views = cache.rows.table()["view"].to_pylist()
    return {
        "rows": [{"id": i, "view": view} for i, view in zip(ids, views, strict=True)],
        "unit_keys": [
            {
                "target": live.shard.target,
                "keys_sha256": live.shard.keys_sha256,
                "fingerprint": cache.committed(live.shard.target).fingerprint,
                "unit_key": live.shard.unit_key,
            }
            for live in read_state(connect(HERE / name)).live()
            if live.shard.target != ROWS
        ],
        "targets": {target: _target(cache[target], len(ids)) for target in cache.targets},
    }


def _target(target: Any, rows: int) -> dict[str, Any]:
    soft = target.read(range(rows))
    found: dict[str, Any] = {
        "fingerprint": target.provenance["fingerprint"],
        "valid": target.read_valid(np.arange(rows)).tolist(),
    }
    if target.task.is_list:
        found["valid"] = [bool(v) for v in found["valid"]]
        found["lengths"] = soft.mask.sum(1).tolist()
    if target.task.traits.has_tokens:
        found |= {name: target.table()[name].to_pylist() for name in ("input_ids", "positions")}
    if not target.task.has_temperature:
        return found | {"values": _numbers(soft.values)}
    temperatures = (1.0,) if target.codec.to_json()["name"] == "served" else TEMPERATURES
    for t in temperatures:
        is_sparse = target.codec.to_json()["name"] in ("topk", "sampled", "served") and not target.task.is_list
        at = found.setdefault("at", {}).setdefault(f"{t:g}", {})
        if target.task.shape[0] <= 100:
            at["log_probs"] = _numbers(soft.log_probs(t))
        if is_sparse:
            at |= {name: _numbers(value) for name, value in soft.sparse_log_probs(t)._asdict().items()}
    return found


def _numbers(values: torch.Tensor) -> Any:
    """Return numbers as nested lists, of six digits; NaN is null."""
    return [_numbers(v) for v in values] if values.ndim else _number(values)


def _number(value: torch.Tensor) -> float | int | str | None:
    if not value.is_floating_point():
        return int(value)
    number = float(value)
    if math.isnan(number):
        return None
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


def dump() -> str:
    """Return the file's text."""
    return json.dumps(vectors(), ensure_ascii=False, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    (HERE / "vectors.json").write_text(dump())
