"""Commits and receipts with one forged member and the right hash: typed errors only."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop

import softcache
from softcache.audit.status import status
from softcache.errors import (
    SoftcacheError,
)
from softcache.store.documents import dump_document, load_document
from softcache.store.files import connect
from softcache.store.gc import find_garbage


def mutations(value: Any) -> list[Any]:
    others = [None, -1, 2**70, 1e308, "x", "../x", [], {}, [None], {"a": None}, True]
    return [o for o in others if o != value or type(o) is not type(value)]


@pytest.mark.parametrize("where", ["commits", "receipts"])
def test_forged_documents_give_typed_errors(workshop: Workshop, where: str, many: Callable[[int, int], int]) -> None:
    """Replace members of a commit or a receipt by values of other types, and keep the final hash right.

    With `--long` each member gets a value of every type, otherwise every third of these pairs is tried.
    """
    workshop.samples(10)
    workshop.build()
    path = sorted((workshop.cache / where).rglob("*.json"))[0]
    body = load_document(path.read_bytes(), "x")

    def places(at: Any, way: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        inner = at.items() if isinstance(at, dict) else enumerate(at[:1]) if isinstance(at, list) else ()
        return [way, *(p for key, value in inner for p in places(value, (*way, key)))]

    pairs = [(way, mutation) for way in places(body, ())[1:] for mutation in mutations(None)]
    chosen = pairs[:: many(3, 1)]
    assert len(chosen) > 50
    for way, mutation in chosen:
        forged = json.loads(json.dumps(body))
        at = forged
        for key in way[:-1]:
            at = at[key]
        at[way[-1]] = mutation
        path.write_bytes(dump_document(forged))
        for act in (_use, softcache.verify, status, lambda c: find_garbage(connect(c))):
            with contextlib.suppress(SoftcacheError):
                act(workshop.cache)


def _use(path: Path) -> None:
    cache = softcache.open(path)
    for name in cache.targets:
        cache[name].lookup([1, 2])
    cache.rows.table()
