"""Names and paths inside a cache."""

from __future__ import annotations

import re

from softcache.errors import FormatError

MARKER = "softcache.json"
CARD = "README.md"
ROWS = "rows"
TEMPORARY = ".tmp-"

_PART = r"[a-z0-9][a-z0-9_.-]*"
_TARGET = re.compile(rf"{_PART}@{_PART}\Z")
_SPLIT = re.compile(r"\w+(\.\w+)*\Z")
_FORBIDDEN = re.compile(r"[\x00\\:]")


def is_target_name(name: str) -> bool:
    """Whether `name` is `part@part` (docs/format.md, section 3)."""
    return len(name) <= 200 and _TARGET.match(name) is not None


def is_name_part(part: str) -> bool:
    """Whether `part` can be a task's or a teacher's name."""
    return len(part) <= 99 and re.fullmatch(_PART, part) is not None


def is_split_name(name: str) -> bool:
    """Whether `name` can name a split. `all` cannot, since it means every split to `datasets`."""
    return name != "all" and _SPLIT.match(name) is not None


def check_path(path: str) -> str:
    """Return `path` if it is a valid path inside a cache; raise FormatError otherwise."""
    segments = path.split("/")
    if _FORBIDDEN.search(path) or any(s in ("", ".", "..") for s in segments):
        raise FormatError(f"{path!r} is not a path inside a cache")
    return path


def commit_path(number: int) -> str:
    """Return the path of commit `number`, counted from 1."""
    return f"commits/{number:020d}.json"


def shard_stem(target: str, split: str, fragment: int) -> str:
    """Return the part of a shard's path before its hash."""
    return f"data/{target}/{split}-{fragment:06d}"
