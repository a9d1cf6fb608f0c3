"""The parts of a dataset card that softcache writes, among those that people write (docs/format.md, section 10)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import yaml

from softcache.errors import FormatError

BEGIN, END = "<!-- softcache: begin -->", "<!-- softcache: end -->"
_TITLE = "# A softcache cache"
_NO_MAPPING = "its front matter is not a YAML mapping of a line for each entry"
# In C, ten times as fast; some builds lack it.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def with_parts(card: str, own: Mapping[str, Any], text: str) -> str:
    """Return a card with the entries `own` in its front matter, and with `text` between the marks.

    Everything else stays as it is. Raises FormatError if the front matter is not a YAML mapping.
    """
    front, body = _split(card)
    return f"---\n{_with_entries(front, own)}---\n{_with_section(body, text)}"


def _split(card: str) -> tuple[str, str]:
    """Return a card's front matter, and what follows it."""
    lines = card.splitlines(keepends=True)
    if lines and lines[0].rstrip() == "---":
        for at, line in enumerate(lines[1:], 1):
            if line.rstrip() == "---":
                return "".join(lines[1:at]), "".join(lines[at + 1 :])
    return "", f"\n{card}" if card else f"\n{_TITLE}\n\n"


def _with_entries(front: str, own: Mapping[str, Any]) -> str:
    made = yaml.dump(dict(own), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    lines = front.splitlines(keepends=True)
    begins = [*_entries(front), ("", len(lines))]
    found, place = lines[: begins[0][1]], None
    for (name, begin), (_, end) in pairwise(begins):
        if name not in own:
            found += lines[begin:end]
            continue
        place = len(found) if place is None else place
        last = end
        while last > begin + 1 and lines[last - 1].lstrip()[:1] in ("", "#"):
            last -= 1
        found += lines[last:end]  # comments that stand before the next entry
    found.insert(len(found) if place is None else place, made)
    return "".join(found)


def _entries(front: str) -> list[tuple[str, int]]:
    """Return the names of the entries of a YAML mapping, and the line where each begins.

    It goes event by event: composing nodes takes the stack of C, and deep nesting ends the process. Raises FormatError.
    """
    found: list[tuple[str, int]] = []
    depth, documents, is_key = 0, 0, True
    try:
        for event in yaml.parse(front, Loader=_LOADER):
            documents += isinstance(event, yaml.DocumentStartEvent)
            mapping = isinstance(event, yaml.MappingStartEvent) and not event.flow_style
            if documents > 1 or (depth == 0 and isinstance(event, yaml.NodeEvent) and not mapping):
                raise FormatError(_NO_MAPPING)
            if depth == 1 and is_key and isinstance(event, yaml.NodeEvent):
                line, column = (0, 0) if event.start_mark is None else (event.start_mark.line, event.start_mark.column)
                if not isinstance(event, yaml.ScalarEvent) or column or (found and line <= found[-1][1]):
                    raise FormatError(_NO_MAPPING)
                found.append((str(event.value), line))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth == 1 and isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent) and found:
                is_key = not is_key
    except (yaml.YAMLError, RecursionError) as e:
        raise FormatError(f"its front matter is not YAML: {' '.join(str(e).split())}") from e
    return found


def _with_section(body: str, text: str) -> str:
    begin = body.rfind(BEGIN)
    end = body.find(END, max(begin, 0))
    section = f"{BEGIN}\n{text}{END}"
    if 0 <= begin < end:
        return f"{body[:begin]}{section}{body[end + len(END) :]}"
    return f"{body if body.endswith(chr(10)) else body + chr(10)}{section}\n"
