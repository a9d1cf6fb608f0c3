"""The dataset card `README.md` (docs/format.md, section 10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from softcache.store.commits import Commit
from softcache.store.files import Files
from softcache.store.layout import CARD
from softcache.store.manifest import LiveShard

MAX_LISTED = 10_000
_EMPTY: list[dict[str, Any]] = [{"config_name": "uncommitted", "data_files": []}]


def write_first_card(files: Files) -> None:
    """Write the card of a cache without a commit, so that `datasets` loads nothing from it."""
    if files.size(CARD) is None:
        files.replace(CARD, render_empty())


def write_card(files: Files, commit: Commit, shards: Iterable[LiveShard]) -> None:
    """Rewrite the card if it is not the commit's."""
    card = render(commit, shards)
    try:
        if files.read(CARD) == card:
            return
    except FileNotFoundError:
        pass
    files.replace(CARD, card)


def render_empty() -> bytes:
    """Return the card of a cache without a commit."""
    return _page(
        _EMPTY, "# A softcache cache\n\nNothing is committed yet. `softcache status` shows how far the build is.\n"
    )


def render(commit: Commit, shards: Iterable[LiveShard]) -> bytes:
    """Return the card of a commit."""
    by_target: dict[str, list[LiveShard]] = {}
    for shard in sorted(shards, key=lambda s: (s.shard.target, s.first_row)):
        by_target.setdefault(shard.shard.target, []).append(shard)
    arrow = {name: found for name, found in by_target.items() if _is_arrow(found)}
    listed = sum(map(len, arrow.values())) <= MAX_LISTED
    configs = [_config(name, found) for name, found in arrow.items()] if listed else _EMPTY
    lines = [
        "# A softcache cache",
        "",
        f"Teachers' answers to {commit.rows:,} samples, at commit {commit.number}. Made by softcache; the answers are raw, so that",
        "any temperature can be applied when they are read.",
        "",
        "| target | kind | shape | values | rows | bytes |",
        "|---|---|---|---|--:|--:|",
    ]
    for name, target in commit.targets.items():
        task = target.declaration["task"]
        kind = f"{task['value_kind'] or 'values'}, {target.declaration['codec'].get('dtype', '')}"
        lines.append(f"| {name} | {task['kind']} | {task['shape']} | {kind} | {target.rows:,} | {target.bytes:,} |")
    lines += ["", "```python", "import softcache", "", "cache = softcache.open(...)  # the path or URL of this folder"]
    lines += ['cache["..."].lookup(ids).log_probs(temperature=4.0)', "```", ""]
    if not listed:
        lines += ["It has too many shards to list them here for `datasets`; `softcache export` writes Parquet.", ""]
    elif arrow:
        lines += [
            f'Without softcache: `datasets.load_dataset(..., "{max(arrow)}")` gives the committed rows as they are stored.',
            "",
        ]
    for name, found in by_target.items():
        if name not in arrow:
            folder = found[0].shard.files[0].path.partition(".zarr/")[0] + ".zarr"
            lines += [
                f'`{name}` is stored with Zarr, {len(found):,} shards; the first: `zarr.open_group("{folder}", mode="r")`.',
                "",
            ]
    return _page(configs, "\n".join(lines))


def _config(name: str, shards: list[LiveShard]) -> dict[str, Any]:
    splits: dict[str, list[str]] = {}
    for shard in shards:
        splits.setdefault(shard.split, []).append(shard.shard.files[0].path)
    return {"config_name": name, "data_files": [{"split": split, "path": paths} for split, paths in splits.items()]}


def _is_arrow(shards: list[LiveShard]) -> bool:
    return shards[0].shard.files[0].path.endswith(".arrow")


def _page(configs: list[dict[str, Any]], text: str) -> bytes:
    return f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False, allow_unicode=True)}---\n\n{text}".encode()
