"""What a tokenizer's ids mean. This identifies it, whatever its name is (docs/format.md, section 3.2)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from softcache.errors import TaskError
from softcache.store.checksums import fingerprint

VOCABULARY = "vocabulary"
_SHOWN = 5


def vocabulary(tokenizer: Any) -> pa.RecordBatch:
    """Return the mapping of a transformers tokenizer, ordered by id and then by token.

    The columns are `id` (int32), `token` (string) and `added` (bool). Raises TaskError for anything else, or if tokens
    are not text.
    """
    try:
        mapping, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
        entries = sorted((int(number), str(token), token in added) for token, number in mapping.items())
        columns = zip(*entries, strict=True)
        kinds = {"id": pa.int32(), "token": pa.string(), "added": pa.bool_()}
        arrays = {name: pa.array(column, kind) for column, (name, kind) in zip(columns, kinds.items(), strict=True)}
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as e:
        raise TaskError(f"{type(tokenizer).__name__} does not give a mapping from tokens to ids: {e}") from e
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def vocabulary_hash(table: pa.RecordBatch) -> str:
    """Return the hash of a vocabulary, which identifies its tokenizer."""
    columns = (table[name].to_pylist() for name in ("id", "token", "added"))
    return fingerprint([list(entry) for entry in zip(*columns, strict=True)])


def vocabulary_size(table: pa.RecordBatch) -> int:
    """Return how many classes a vocabulary has: one more than its highest id."""
    return int(table["id"][-1].as_py()) + 1


def vocabulary_differences(teacher: pa.RecordBatch, student: pa.RecordBatch) -> str:
    """Describe how a student's vocabulary differs from a teacher's. The first few ids that differ are listed."""
    ours, theirs = _by_id(teacher), _by_id(student)
    different = [number for number in sorted({*ours, *theirs}) if ours.get(number) != theirs.get(number)]
    shown = ", ".join(f"{n}: {_named(ours.get(n))} -> {_named(theirs.get(n))}" for n in different[:_SHOWN])
    sizes = f"{len(ours):,} ids in the teacher's, {len(theirs):,} in the student's"
    return f"{len(different):,} ids differ ({shown}{', ...' if len(different) > _SHOWN else ''}); {sizes}"


def _by_id(table: pa.RecordBatch) -> dict[int, list[tuple[str, bool]]]:
    found: dict[int, list[tuple[str, bool]]] = {}
    for number, token, added in zip(*(table[name].to_pylist() for name in ("id", "token", "added")), strict=True):
        found.setdefault(number, []).append((token, added))
    return found


def _named(tokens: list[tuple[str, bool]] | None) -> str:
    if tokens is None:
        return "absent"
    return " and ".join(f"{token!r}{' (added)' if added else ''}" for token, added in tokens)
