"""JSON files that end with the hash of their own body (docs/format.md, section 1)."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from softcache.errors import FormatError, IntegrityError
from softcache.store.checksums import sha256
from softcache.store.files import Files

T = TypeVar("T")
MAX_BYTES = 256 * 1024 * 1024
# An empty list takes two bytes in a file and 28 times as many in memory.
MAX_VALUES = 4_000_000
_ENDING = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n\Z')
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ENDING_BYTES = len(',\n  "sha256": ""\n}\n') + 64


def parse(kind: type[T], data: Any, where: str) -> T:
    """Return `data` as the dataclass `kind`. Every member is checked.

    Members that `kind` does not list are kept if it is an open TypedDict (store/declarations.py), otherwise ignored.

    Raises FormatError, which names `where` and the first member that is wrong.
    """
    try:
        parsed: T = _adapter(cast(Any, kind)).validate_python(data)
        return parsed
    except ValidationError as e:
        first = e.errors(include_input=False, include_url=False)[0]
        member = ".".join(map(str, first["loc"]))
        raise FormatError(f"{where}: {member or kind.__name__}: {first['msg']}") from e


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def dump_document(body: dict[str, Any]) -> bytes:
    """Return `body` as a file's bytes, one line per member. `body` is not empty and has no member `sha256`."""
    lines = (f"  {json.dumps(name)}: {_ENCODER.encode(body[name])}" for name in sorted(body))
    head = ("{\n" + ",\n".join(lines)).encode()
    return head + f',\n  "sha256": "{sha256(head)}"\n}}\n'.encode()


def read_document(files: Files, path: str) -> tuple[dict[str, Any], str]:
    """Read a JSON file of a cache; return its object without the member `sha256`, and the SHA-256 of the whole file.

    Raises FileNotFoundError, and what `load_document` raises.
    """
    data = files.read(path, MAX_BYTES)
    return load_document(data, f"{files.url}/{path}"), sha256(data)


def load_document(data: bytes, path: str) -> dict[str, Any]:
    """Check and parse a file's bytes; return its object without the member `sha256`. `path` names the file in errors.

    Raises IntegrityError if the file does not end with the hash of its content, and what `load_object` raises.
    """
    ending = _ENDING.search(data[-_ENDING_BYTES:])
    if ending is None:
        raise IntegrityError(f"{path}: truncated, or not a softcache file: it does not end with its sha256")
    if sha256(memoryview(data)[:-_ENDING_BYTES]) != ending[1].decode():
        raise IntegrityError(f"{path}: its content does not match the sha256 at its end; it was changed after writing")
    body = load_object(data, path)  # only an object can have that ending
    del body["sha256"]
    return body


def load_object(data: bytes, path: str) -> dict[str, Any]:
    """Parse a JSON object; `path` names the file in errors.

    Raises FormatError if it holds too many values, or is not an object as docs/format.md, section 1, has it.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path}: {len(data):,} bytes of JSON; softcache reads at most {MAX_BYTES:,}")
    if (values := sum(data.count(sign) for sign in b",[{")) > MAX_VALUES:
        raise FormatError(f"{path}: up to {values:,} values; softcache reads at most {MAX_VALUES:,}")
    try:
        body = _DECODER.decode(data.decode())
        if _SURROGATE.search(data):
            json.dumps(body, ensure_ascii=False).encode()  # half a pair is not text: no path or card can hold it
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: not JSON: {e}") from e
    if not isinstance(body, dict):
        raise FormatError(f"{path}: not a JSON object")
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member occurs twice in an object")
    return found


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits:.20} is not a finite number")
    return number


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)
