"""Names and paths inside a cache."""

from __future__ import annotations

import re
from collections.abc import Iterable

from softcache.errors import FormatError

VERSION = 1  # of the format
MARKER = "softcache.json"
CARD = "README.md"
ROWS = "rows"
TEMPORARY = ".tmp-"

_PART = r"[a-z0-9][a-z0-9_.-]*"
_TARGET = re.compile(rf"{_PART}@{_PART}\Z")
_SPLIT = re.compile(r"\w+(\.\w+)*\Z")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:%?#*\[\]]")
_EPOCH = r"(?:-e(?P<epoch>[1-9][0-9]{0,18}))?"
_HASHED = re.compile(rf"(?P<digest>[0-9a-f]{{64}}){_EPOCH}\.(?:arrow|json)\Z")
_IN_PATH = re.compile(rf"(?P<digest>[0-9a-f]{{64}}){_EPOCH}\.(?:arrow\Z|json\Z|zarr(?:/|\Z))")
_NAME = rf"(?:{ROWS}|{_PART}@{_PART})"
_SHARD = re.compile(
    rf"data/(?P<target>{_NAME})/(?P<thousands>[0-9]{{3,}})/\w+(?:\.\w+)*-(?P<fragment>[0-9]{{6,}})-[0-9a-f]{{64}}{_EPOCH}"
    r"(?:\.arrow|\.zarr)\Z"
)
_IN_ZARR = re.compile(r"(?:zarr\.json|[a-z0-9_]+/(?:zarr\.json|c(?:/0)*))\Z")
_OWN = [
    re.compile(pattern + r"\Z")
    for pattern in (
        rf"(?:plan|manifests|index|condemned|tables)/(?P<top>[0-9a-f]{{2}})/(?P=top)[0-9a-f]{{62}}{_EPOCH}\.arrow",
        rf"(?:tables|receipts/{_NAME})/(?P<top>[0-9a-f]{{2}})/(?P=top)[0-9a-f]{{62}}{_EPOCH}\.json",
    )
]
_UNFINISHED = re.compile(
    r"(?:(?:(?:plan|manifests|index|condemned|tables|receipts/[^/]+)/[0-9a-f]{2}|(?:commits|signatures)/[0-9]{3,}"
    r"|data/[^/]+/[0-9]{3,}(?:/[^/]+\.zarr(?:/.+)?)?)/)?\.tmp-[0-9a-f]{32}\Z"
)


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
    return f"commits/{number // 1000:03d}/{number:020d}.json"


def signatures_folder(number: int) -> str:
    """Return the folder of the signatures of commit `number`."""
    return f"signatures/{number // 1000:03d}"


def signature_path(number: int, digest: str) -> str:
    """Return the path of a signature of commit `number`; `digest` is the SHA-256 of the signature."""
    return f"{signatures_folder(number)}/{number:020d}-{digest}.sig"


def hashed_path(folder: str, named: str, suffix: str = "arrow") -> str:
    """Return the path of a file that is named by a hash; `named` is the hash as it stands in names."""
    return f"{folder}/{named[:2]}/{named}.{suffix}"


def epoch_suffix(epoch: int) -> str:
    """Return what follows a hash in the name of a file of an epoch (docs/format.md, section 12)."""
    return f"-e{epoch}" if epoch else ""


def hash_and_epoch(name: str) -> tuple[str, int] | None:
    """Return the hash and the epoch in a name `<sha256>[-e<epoch>].arrow` or `.json`, None if it is none."""
    found = _HASHED.match(name)
    return None if found is None else (found["digest"], int(found["epoch"] or 0))


def newest_first(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the paths for each hash that their names begin with, those of the highest epoch first.

    Paths of no hash, or in another folder than that of its first two digits, are left out.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(paths, key=epoch_in_path, reverse=True):
        folder, name = path.split("/")[-2:]
        if (named := hash_and_epoch(name)) is not None and folder == named[0][:2]:
            found.setdefault(named[0], []).append(path)
    return found


def hash_in_path(path: str) -> str | None:
    """Return the hash in the path of a file or Zarr shard, None if there is none."""
    found = _IN_PATH.search(path)
    return None if found is None else found["digest"]


def epoch_in_path(path: str) -> int:
    """Return the epoch in the path of a file or Zarr shard, 0 if there is none."""
    found = _IN_PATH.search(path)
    return int(found["epoch"] or 0) if found is not None else 0


def shard_path(target: str, split: str, fragment: int, named: str) -> str:
    """Return the path of a shard without its suffix; `named` is its hash as it stands in names."""
    return f"data/{target}/{fragment // 1000:03d}/{split}-{fragment:06d}-{named}"


def target_of_shard(path: str) -> str | None:
    """Return the target of a shard with the path of an Arrow file or of a Zarr folder, None if it is no such path."""
    found = _SHARD.match(path)
    if found is None or int(found["thousands"]) != int(found["fragment"]) // 1000:
        return None
    return found["target"]


def is_collectable(path: str) -> bool:
    """Whether a file has the place and name of one that garbage collection may delete."""
    if is_unfinished(path) or any(pattern.match(path) for pattern in _OWN):
        return True
    shard, dot, inside = path.partition(".zarr/")
    if target_of_shard(f"{shard}.zarr" if dot else path) is None:
        return False
    return _IN_ZARR.match(inside) is not None if dot else path.endswith(".arrow")


def is_unfinished(path: str) -> bool:
    """Whether a file has the place and name of an unfinished write."""
    return _UNFINISHED.match(path) is not None
