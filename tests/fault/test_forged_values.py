"""Forged caches whose every hash fits, but which hold what no encoder writes or no declaration says: verify says so."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop
from test_forged_verify import Forger, changed, of

import softcache
from softcache.store import arrow
from softcache.store.checksums import fingerprint


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits of ten samples each; sample 13 is broken. Targets of four codecs."""
    workshop = Workshop(tmp_path_factory.mktemp("forged"))
    task = workshop.recipe["tasks"]["cls"]
    stores = {
        "top": {"codec": "topk", "k": 2, "nodes": 8},
        "drawn": {"codec": "sampled", "draws": 8},
        "cls": {"dtype": "float16"},
        "codes": {"codec": "quantized"},
    }
    for name, store in stores.items():
        workshop.recipe["tasks"][name] = task | {"name": f"{name}@t", "output": "cls", "store": store}
    workshop.recipe["build"]["on_bad_sample"] = "skip"
    for count in (10, 20):
        workshop.samples(count, change=lambda x: x.__setitem__((slice(13, 14), 0), 1000.0))
        workshop.build()
    assert softcache.verify(workshop.cache).ok
    return workshop.cache


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[dict[str, pa.Array]], None]:
    """Return what puts a number into a column: the row, and the place in it."""

    def change(columns: dict[str, pa.Array]) -> None:
        column = columns[name]
        width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 1
        flat = column.flatten() if width > 1 or pa.types.is_fixed_size_list(column.type) else column
        numbers = flat.to_numpy(zero_copy_only=False).reshape(len(column), width).copy()
        numbers[place] = value
        columns[name] = arrow.column_array(
            numbers if pa.types.is_fixed_size_list(column.type) else numbers.reshape(len(column))
        )

    return change


def of_file(
    target: str, change: Callable[[dict[str, pa.Array]], None], *, moves: bool = False
) -> Callable[[Forger], None]:
    name = "rows" if target == "rows" else f"{target}@t"
    return lambda forger: forger.file(name, ".arrow", lambda data: changed(data, change), moves=moves)


def other_type(columns: dict[str, pa.Array]) -> None:
    columns["values"] = arrow.column_array(np.zeros((10, 5), np.float32))


def one_fewer(columns: dict[str, pa.Array]) -> None:
    del columns["entropy"]


def swapped(columns: dict[str, pa.Array]) -> None:
    columns["values"] = columns.pop("values")


def relabelled(columns: dict[str, pa.Array]) -> None:
    columns["label"] = pa.array([4] * 10)


def declare(change: Callable[[dict[str, Any]], None], *, sign: bool) -> Callable[[Forger], None]:
    """Return what changes the declaration of top@t in both commits, and perhaps its fingerprint."""

    def forge(forger: Forger) -> None:
        def edit(record: dict[str, Any]) -> None:
            change(record["declaration"])
            if sign:
                record["fingerprint"] = fingerprint(["top@t", record["declaration"]])

        forger.record("top@t", edit)

    return forge


def fewer_nodes(declaration: dict[str, Any]) -> None:
    declaration["codec"]["nodes"] = 4


def other_teacher(declaration: dict[str, Any]) -> None:
    declaration["teacher"]["config"] = {"scale": 2}


FORGERIES: list[tuple[str, Callable[[Forger], None]]] = [
    ("its columns have other types than declared: sketch is", declare(fewer_nodes, sign=True)),
    ("target top@t: its fingerprint is not that of its declaration", declare(other_teacher, sign=False)),
    ("it says that it is", declare(other_teacher, sign=True)),
    ("its unit key is not that of its keys and declaration", declare(other_teacher, sign=True)),
    ("its unit key is not", lambda f: f.shards(of("cls@t", lambda s: {"unit_key": "0" * 64}))),
    ("its unit key is not that of its keys, declaration, kept values", of_file("rows", relabelled)),
    ("its columns have other types than declared: values is", of_file("cls", other_type, moves=True)),
    ("its columns are ids, gaps, sketch, top1", of_file("top", one_fewer, moves=True)),
    ("its columns are valid, sample_id, view, values", of_file("cls", swapped, moves=True)),
    ("a value that is NaN or +Inf", of_file("cls", put("values", (2, 1), np.nan))),
    ("a value that is -Inf", of_file("cls", put("values", (2, 1), -np.inf))),
    ("a value that is -Inf", of_file("codes", put("codes", (2, 1), 255))),
    ("a value that is NaN or +Inf", of_file("codes", put("affine", (2, 1), np.nan))),
    ("rows without an answer do not hold the missing value of values", of_file("cls", put("values", (3, 1), 0))),
    ("rows without an answer do not hold the missing value of top1", of_file("top", put("top1", (3, 0), 0))),
    ("a class number above 4", of_file("top", put("ids", (2, 1), 5))),
    ("a class twice", of_file("top", lambda c: put("ids", (2, 1), int(c["ids"][2].as_py()[0]))(c))),
    ("gaps that are not in order", of_file("top", put("gaps", (2, 0), 65_000))),
    ("a tail of more classes than are left", of_file("top", put("sketch", (2, 0), 6_000))),
    ("top1 is not the first class", of_file("top", lambda c: put("top1", (2, 0), int(c["ids"][2].as_py()[1]))(c))),
    ("top1_prob is not its probability", of_file("top", put("top1_prob", (2, 0), 0.01))),
    ("tail_mass is not that of the tail", of_file("top", put("tail_mass", (2, 0), 0.9))),
    ("entropy is not that of the distribution", of_file("top", put("entropy", (2, 0), 3.0))),
    ("counts that do not add up to 8", of_file("drawn", put("counts", (2, 0), 200))),
    ("an unused place that holds something", of_file("drawn", put("gaps", (2, 7), 5))),
    ("a class twice", of_file("drawn", lambda c: put("ids", (2, 1), int(c["ids"][2].as_py()[0]))(c))),
]


@pytest.mark.parametrize(("what", "forge"), FORGERIES, ids=[f"{i} {what}" for i, (what, _) in enumerate(FORGERIES)])
def test_forged(pristine: Path, tmp_path: Path, what: str, forge: Callable[[Forger], None]) -> None:
    forger = Forger(Path(shutil.copytree(pristine, tmp_path / "cache")))
    forge(forger)
    said = forger.said("full")
    assert any(what in problem for problem in said), said
