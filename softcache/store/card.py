"""The dataset card `README.md` (docs/format.md, section 10)."""

from __future__ import annotations

import logging
from typing import Any

from softcache.errors import FormatError
from softcache.store.card_parts import with_parts
from softcache.store.files import Files
from softcache.store.layout import CARD
from softcache.store.state import State

log = logging.getLogger("softcache")

MAX_LISTED = 10_000
MAX_BYTES = 16 * 2**20
_EMPTY: list[dict[str, Any]] = [{"config_name": "uncommitted", "data_files": []}]


def write_first_card(files: Files) -> None:
    """Write the card of a cache without a commit, so that `datasets` loads nothing from it."""
    if files.size(CARD) is None:
        text = "Nothing is committed yet. `softcache status` shows how far the build is.\n"
        files.replace(CARD, with_parts("", {"configs": _EMPTY}, text).encode())


def write_card(files: Files, state: State) -> None:
    """Make the card that of a commit, unless it is already; what others wrote into it stays.

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
        card = render(there, state)
    except FormatError as e:
        number = state.commit.number
        log.warning("%s/%s: %s; it is left as it is, and does not show commit %d", files.url, CARD, e, number)
        return
    if card != there:
        files.replace(CARD, card)


def render(there: bytes, state: State) -> bytes:
    """Return the card of a commit, with what others wrote into the card that is there.

    Raises FormatError if that one cannot be read as a card.
    """
    shards = {name: state.manifest(name).first_files() for name in sorted(state.commit.manifests)}
    arrow = {name: found for name, found in shards.items() if found[0][1].endswith(".arrow")}
    zarr = {name: found for name, found in shards.items() if name not in arrow}
    listed = sum(map(len, arrow.values())) <= MAX_LISTED
    configs = [_config(name, found) for name, found in arrow.items()] if listed else _EMPTY
    text = "\n".join(
        [*_head(state), *_usage(list(arrow) if listed else []), *(_zarr_line(*each) for each in zarr.items())]
    )
    try:
        before = there.decode()
    except UnicodeDecodeError as e:
        raise FormatError(f"it is not UTF-8: {e}") from e
    return with_parts(before, {"configs": configs}, text).encode()


def _head(state: State) -> list[str]:
    rows, number = state.commit.rows, state.commit.number
    lines = [
        f"Teachers' answers to {rows:,} samples, at commit {number}, made by softcache. They are raw:",
        "any temperature can be applied when they are read.",
        "",
        "| target | kind | shape | values | rows | bytes |",
        "|---|---|---|---|--:|--:|",
    ]
    for name in state.commit.targets:
        target = state.committed(name)
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


def _zarr_line(name: str, shards: list[tuple[str, str]]) -> str:
    folder = shards[0][1].partition(".zarr/")[0] + ".zarr"
    opens = f'zarr.open_group("{folder}", mode="r")'
    return f"`{name}` is stored with Zarr, {len(shards):,} shards; the first: `{opens}`.\n"


def _config(name: str, shards: list[tuple[str, str]]) -> dict[str, Any]:
    splits: dict[str, list[str]] = {}
    for split, path in shards:
        splits.setdefault(split, []).append(path)
    return {"config_name": name, "data_files": [{"split": split, "path": paths} for split, paths in splits.items()]}
