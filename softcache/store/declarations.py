"""JSON objects that travel between a build, receipts and commits (docs/format.md, sections 3, 6 and 9).

Members that are not listed here are kept unchanged, so that an older softcache loses nothing that a newer one wrote.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, cast

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from softcache.store.checksums import fingerprint

_open = with_config(ConfigDict(extra="allow"))


@_open
class AugmentationDeclaration(TypedDict):
    """What determines the views of a cache: the transform, its arguments, source files and column, and the seed."""

    transform: str
    arguments: dict[str, Any]
    column: str | None
    seed: Annotated[int, Field(strict=True)]
    sources: dict[str, str]


@_open
class AugmentationRecord(TypedDict):
    """How the views of a cache were made, and every set of library versions that made some of them."""

    declaration: AugmentationDeclaration
    versions: Annotated[list[dict[str, str]], Field(min_length=1)]


@_open
class TargetDeclaration(TypedDict):
    """What a target's fingerprint covers: task, teacher, codec and shard format, as JSON."""

    task: dict[str, Any]
    teacher: dict[str, Any]
    codec: dict[str, Any]
    format: str
    augmentation: NotRequired[AugmentationDeclaration]


@_open
class RowsDeclaration(TypedDict):
    """What the fingerprint of `rows` covers: the id type, and the kept columns with their Arrow types."""

    id: str
    keep: dict[str, str]
    augmentation: NotRequired[AugmentationDeclaration]


Declaration = TargetDeclaration | RowsDeclaration


@_open
class ParentCommit(TypedDict):
    """The previous commit: its number and the SHA-256 of its file."""

    number: Annotated[int, Field(strict=True)]
    sha256: str


def short_declaration(declaration: Declaration) -> Declaration:
    """Return a declaration with its labels replaced by their hash."""
    if "task" not in declaration:
        return declaration
    target = cast(TargetDeclaration, declaration)
    return {**target, "task": short_task(target["task"])}


def short_task(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task with its labels replaced by their hash."""
    labels = task.get("labels")
    return task if labels is None else task | {"labels": fingerprint(labels)}
