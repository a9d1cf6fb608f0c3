"""Mutants of bytes, of JSON and of Arrow tables."""

import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from softcache.store import arrow
from softcache.store.ipc import aligned

PATHS = ["../x", "/etc/passwd", "s3://x/y", "a\\b", "a\0b", "x" * 300]
INTEGERS = [-1, 0, 7, 2**16, 2**31 - 1, 2**31, 2**48, 2**62, 2**63 - 1, -(2**63), 2**63, 2**70]
FLOATS = [float("nan"), float("inf"), 1e308, -1.5]
TEXTS = [*PATHS, "", "NaN", "rows", "cls@t", "\ud800", "\ud800", "x" * 100_000, "{}", "[" * 5000, "1" * 5000]
DEEP, DIGITS, AGAIN = "@deep", "@digits", "@again "  # what json.dumps cannot write
OTHERS = [None, True, False, b"", b"\xff" * 32, [], {}, [None], [[]], {"a": None}, DEEP, DIGITS]
SAME_TYPE: dict[type, list[Any]] = {int: INTEGERS, float: FLOATS, str: TEXTS, bytes: [b"", b"x" * 32, bytes(32)]}
TABLE_CHANGES = [
    *("odd", "odd", "odd", "count", "count", "path", "overlap", "null", "double", "reorder", "none", "drop", "extra"),
    *("cast", "metadata", *(FORMS := ("bomb", "twice", "batches", "zstd", "empty"))),
]
ARROW_TYPES = [pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float64(), pa.string(), pa.large_string(), pa.null()]
BOMB = 768 * 2**20


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each member, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from places(inner, (*way, key))


def member(value: Any, way: tuple[Any, ...]) -> Any:
    for step in way:
        value = value[step]
    return value


class Mutator:
    """Changes that follow from `seed`; `said` tells them."""

    def __init__(self, seed: int) -> None:
        self.pick, self.said = random.Random(seed), ""

    def say(self, what: str) -> None:
        self.said += f"{what}; "

    def _odd(self, value: Any) -> Any:
        """Something else for a value, more often than not of its type."""
        alike = SAME_TYPE.get(type(value), OTHERS)
        odd = self.pick.choice(alike if self.pick.random() < 0.6 else [*INTEGERS, *FLOATS, *TEXTS, *OTHERS])
        self.say(f"{value!r:.40} -> {odd!r:.40}")
        return odd

    def mangled(self, data: bytes) -> bytes:
        made = bytearray(data)
        for _ in range(self.pick.randint(1, 3)):
            at = self.pick.randrange(len(made) + 1)
            end = min(at + self.pick.choice([1, 4, 8, 64]), len(made))
            how = self.pick.choice(["flip", "number", "truncate", "splice", "insert", "cut"])
            self.say(f"{how} at {at}")
            if how == "flip" and at < len(made):
                made[at] ^= 1 << self.pick.randrange(8)
            elif how == "number":
                at -= at % 4
                number = self.pick.choice([0, 1, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1])
                made[at : at + 8] = struct.pack("<Q", number)[: 8 if at + 8 <= len(made) else 4]
            elif how == "truncate":
                del made[at:]
            elif how == "splice":
                begin = self.pick.randrange(len(made) + 1)
                made[at:end] = made[begin : begin + 64]
            elif how == "insert":
                made[at:at] = self.pick.randbytes(self.pick.choice([1, 8, 100]))
            elif how == "cut":
                del made[at:end]
        return bytes(made)

    def json(self, body: dict[str, Any]) -> bytes:
        if "reader_features" in body and self.pick.random() < 0.2:
            feature = self.pick.choice(["reader_features", "writer_features"])
            body[feature].append("unknown")
            self.say(f"{feature} has one that is not known")
        for _ in range(self.pick.choice([1, 1, 1, 2])):
            self._change_member(body)
        text = json.dumps(body, indent=2).replace(f'"{AGAIN}', '"')
        depth = self.pick.choice([50, 900, 20_000])
        return text.replace(f'"{DEEP}"', "[" * depth + "]" * depth).replace(f'"{DIGITS}"', "1" * 5000).encode()

    def _change_member(self, body: Any) -> None:
        *way, key = self.pick.choice([*places(body)])
        at = member(body, tuple(way))
        how = self.pick.choice(["odd", "odd", "odd", "delete", "again", "wrap", "text", "copy"])
        self.say(f"{how} {'.'.join(map(str, (*way, key)))}")
        if how == "delete":
            del at[key]
        elif how == "again" and isinstance(at, dict):
            at[f"{AGAIN}{key}"] = self._writable(self._odd(at[key]))
        elif how == "wrap":
            at[key] = self.pick.choice([[at[key]], {"a": at[key]}, [at[key]] * 2])
        elif how == "text":
            at[key] = str(at[key])
        elif how == "copy":
            at[key] = json.loads(json.dumps(at[self.pick.choice([*at] if isinstance(at, dict) else range(len(at)))]))
        else:
            at[key] = self._writable(self._odd(at[key]))

    def _writable(self, value: Any) -> Any:
        return value.decode("latin-1") if isinstance(value, bytes) else value

    def card(self, data: bytes) -> bytes:
        _, head, text = data.decode().split("---\n", 2)
        body = yaml.safe_load(head)
        self._change_member(body)
        return f"---\n{yaml.safe_dump(body, sort_keys=False)}---\n{text}".encode()

    def table(self, data: bytes) -> bytes:
        batch = arrow.load(data, "table")
        columns, types = batch.to_pydict(), dict(zip(batch.schema.names, batch.schema.types, strict=True))
        metadata = dict(batch.schema.metadata or {})
        changes = [self._change_columns(columns, types, metadata) for _ in range(self.pick.randint(1, 2))]
        arrays = {name: array(values, types.get(name)) for name, values in columns.items()}
        return write(arrays, metadata, changes[-1], self.pick.choice([*arrays]))

    def _change_columns(self, columns: dict[str, list[Any]], types: dict[str, Any], metadata: dict[Any, Any]) -> str:
        """Change them in place, or return the unusual form in which to write the stream."""
        name, how = self.pick.choice([*columns]), self.pick.choice(TABLE_CHANGES)
        values = columns[name]
        self.say(f"{how} {name}")
        if how in FORMS or not values:
            return how
        at, other = self.pick.randrange(len(values)), self.pick.randrange(len(values))
        if how in ("odd", "count", "path"):
            kind = {"count": int, "path": str}.get(how, object)
            way = self.pick.choice([w for w in places(columns) if isinstance(member(columns, w), kind)] or [(name, at)])
            if len(way) > 1:
                self.say(".".join(map(str, way)))
                pool = {"count": INTEGERS, "path": PATHS}.get(how)
                inner = member(columns, way[:-1])
                inner[way[-1]] = self.pick.choice(pool) if pool else self._odd(inner[way[-1]])
        elif how == "overlap":
            copied = values[other]
            values[at] = copied + self.pick.choice([-1, 0, 1]) if type(copied) is int else copied
        elif how == "null":
            values[at] = None
        elif how in ("double", "reorder", "none"):
            rows = range(min(map(len, columns.values())))
            order = {"double": [*rows, at], "reorder": self.pick.sample(rows, len(rows)), "none": []}[how]
            columns |= {n: [v[i] for i in order if i < len(v)] for n, v in columns.items()}
        elif how == "drop" and len(columns) > 1:
            del columns[name]
        elif how == "extra":
            columns["extra"] = [self._odd("") for _ in values]
        elif how == "cast":
            types[name] = self.pick.choice(ARROW_TYPES)
        elif how == "metadata":
            text = self._odd("")
            key = self.pick.choice([*metadata, b"extra"])
            metadata[key] = text if isinstance(text, bytes) else str(text).encode(errors="replace")
        return ""


def array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Return the values as the type; failing that, as Arrow infers them; failing that, as text."""
    for attempt in (kind, None):
        try:
            return pa.array(values, attempt)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return pa.array([ascii(v)[:1000] for v in values])


def write(arrays: dict[str, pa.Array], metadata: dict[bytes, bytes], form: str = "", name: str = "") -> bytes:
    """A stream that `store.arrow.dump` would not write; `form` says how, `name` which column."""
    options = pa.ipc.IpcWriteOptions(compression="zstd" if form in ("zstd", "bomb") else None)
    columns = list(arrays.items())
    count = min((len(a) for a in arrays.values()), default=0)
    columns = [(n, a[:count]) for n, a in columns]
    if form == "bomb" and count:
        width = BOMB // count
        zeros = pa.py_buffer(np.zeros(width * count, np.uint8))
        columns.append(("zeros", pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, zeros])))
    if form == "twice" and name:
        columns.append((name, arrays[name][:count]))
    fields = [pa.field(n, a.type, nullable=bool(a.null_count) or pa.types.is_null(a.type)) for n, a in columns]
    schema = pa.schema(fields, metadata=metadata or None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for _ in range({"batches": 2, "empty": 0}.get(form, 1)):
            writer.write_batch(pa.RecordBatch.from_arrays([a for _, a in columns], schema=schema))
    return sink.getvalue().to_pybytes() if form else bytes(aligned(sink.getvalue()))
