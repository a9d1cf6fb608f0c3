"""The dataset card `README.md` (docs/format.md, section 10)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from softcache.errors import FormatError
from softcache.store.card_parts import with_parts
from softcache.store.commits import Commit
from softcache.store.files import Files
from softcache.store.layout import CARD
from softcache.store.manifest import LiveShard

log = logging.getLogger("softcache")

MAX_LISTED = 10_000
MAX_BYTES = 16 * 2**20
_EMPTY: list[dict[str, Any]] = [{"config_name": "uncommitted", "data_files": []}]


def write_first_card(files: Files) -> None:
    """Write the card of a cache without a commit, so that `datasets` loads nothing from it."""
    if files.size(CARD) is None:
        text = "Nothing is committed yet. `softcache status` shows how far the build is.\n"
        files.replace(CARD, with_parts("", {"configs": _EMPTY}, text).encode())


def write_card(files: Files, commit: Commit, shards: Iterable[LiveShard]) -> None:
    """Make the card that of `commit`, unless it is already; what others wrote into it stays.

    A card that cannot be read as one is left alone, with a warning.
    """
    try:
        there = files.read(CARD, MAX_BYTES)
    except FileNotFoundError:
        there = b""
    except FormatError as e:
        log.warning("%s; it is left as it is", e)
        return
    try:
        card = render(there, commit, shards)
    except FormatError as e:
        log.warning("%s/%s: %s; it is left as it is, and does not show commit %d", files.url, CARD, e, commit.number)
        return
    if card != there:
        files.replace(CARD, card)


def render(there: bytes, commit: Commit, shards: Iterable[LiveShard]) -> bytes:
    """Return the card of a commit, with what others wrote into the card that is there.

    Raises FormatError if that one cannot be read as a card.
    """
    by_target: dict[str, list[LiveShard]] = {}
    for shard in sorted(shards, key=lambda s: (s.shard.target, s.first_row)):
        by_target.setdefault(shard.shard.target, []).append(shard)
    arrow = {name: found for name, found in by_target.items() if _is_arrow(found)}
    zarr = {name: found for name, found in by_target.items() if name not in arrow}
    listed = sum(map(len, arrow.values())) <= MAX_LISTED
    configs = [_config(name, found) for name, found in arrow.items()] if listed else _EMPTY
    text = "\n".join([*_head(commit), *_usage(list(arrow) if listed else []), *map(_zarr_line, zarr.values())])
    try:
        before = there.decode()
    except UnicodeDecodeError as e:
        raise FormatError(f"it is not UTF-8: {e}") from e
    return with_parts(before, {"configs": configs}, text).encode()


def _head(commit: Commit) -> list[str]:
    lines = [
        f"Teachers' answers to {commit.rows:,} samples, at commit {commit.number}, made by softcache. They are raw:",
        "any temperature can be applied when they are read.",
        "",
        "| target | kind | shape | values | rows | bytes |",
        "|---|---|---|---|--:|--:|",
    ]
    for name, target in commit.targets.items():
        task, codec = target.declaration["task"], target.declaration["codec"]
        values = f"{task.get('value_kind') or 'values'}, {codec.get('dtype') or codec.get('name')}"
        lines.append(
            f"| {name} | {task.get('kind')} | {task.get('shape')} | {values} | {target.rows:,} | {target.bytes:,} |"
        )
    return [*lines, ""]


def _usage(loadable: list[str]) -> list[str]:
    lines = [
        "```python",
        "import softcache",
        "",
        "cache = softcache.open(...)  # the path or URL of this folder",
        'cache["..."].lookup(ids).log_probs(temperature=4.0)',
        "```",
        "",
    ]
    if not loadable:
        return [*lines, "There are too many shards to list them for `datasets`; `softcache export` writes Parquet.", ""]
    load = f'datasets.load_dataset(..., "{loadable[0]}")'
    return [*lines, f"Without softcache, `{load}` gives the committed rows as they are stored.", ""]


def _zarr_line(shards: list[LiveShard]) -> str:
    folder = shards[0].shard.files[0].path.partition(".zarr/")[0] + ".zarr"
    opens = f'zarr.open_group("{folder}", mode="r")'
    return f"`{shards[0].shard.target}` is stored with Zarr, {len(shards):,} shards; the first: `{opens}`.\n"


def _config(name: str, shards: list[LiveShard]) -> dict[str, Any]:
    splits: dict[str, list[str]] = {}
    for shard in shards:
        splits.setdefault(shard.split, []).append(shard.shard.files[0].path)
    return {"config_name": name, "data_files": [{"split": split, "path": paths} for split, paths in splits.items()]}


def _is_arrow(shards: list[LiveShard]) -> bool:
    return shards[0].shard.files[0].path.endswith(".arrow")
