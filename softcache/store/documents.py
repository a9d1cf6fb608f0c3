"""JSON files that end with the hash of their own body (docs/format.md, section 1)."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from softcache.errors import FormatError, IntegrityError
from softcache.store.checksums import sha256

T = TypeVar("T")
MAX_BYTES = 256 * 1024 * 1024
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


def load_document(data: bytes, path: str) -> dict[str, Any]:
    """Check and parse a file's bytes; return its object without the member `sha256`. `path` names the file in errors.

    Raises IntegrityError if the file does not end with the hash of its content, FormatError if it is too large or is
    not JSON.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path}: {len(data):,} bytes; softcache reads at most {MAX_BYTES:,}")
    ending = _ENDING.search(data[-_ENDING_BYTES:])
    if ending is None:
        raise IntegrityError(f"{path}: truncated, or not a softcache file: it does not end with its sha256")
    if sha256(data[:-_ENDING_BYTES]) != ending[1].decode():
        raise IntegrityError(f"{path}: its content does not match the sha256 at its end; it was changed after writing")
    try:
        body: dict[str, Any] = json.loads(data)  # only an object can have that ending
        if _SURROGATE.search(data):
            json.dumps(body, ensure_ascii=False).encode()  # half a pair is not text: no path or card can hold it
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: not JSON: {e}") from e
    del body["sha256"]
    return body
