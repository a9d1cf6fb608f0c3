"""A forged cache whose every hash fits: verify says what does not belong together."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop
from forgery import sign_commits
from manifests import read_record, with_record, with_shards
from mutants import write

import softcache
from softcache.store import arrow
from softcache.store.checksums import sha256
from softcache.store.documents import dump_document, load_document
from softcache.store.layout import hashed_path
from softcache.store.live_shards import LiveShard
from softcache.store.plan import plan_path
from softcache.store.shards import describe_file

Change = Callable[[LiveShard], LiveShard]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits, two fragments, every sample the same."""
    workshop = Workshop(tmp_path_factory.mktemp("forged"))
    for count in (10, 20):
        workshop.samples(count, change=lambda x: x.__setitem__(slice(None), 1))
        workshop.build()
    return workshop.cache


class Forger:
    """A cache's files, to be changed; whatever vouches for a changed file is signed again."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.files = {p.relative_to(cache).as_posix(): p.read_bytes() for p in cache.rglob("*") if p.is_file()}

    def shards(self, change: Change, number: int = 2) -> None:
        def name_it(body: dict[str, Any]) -> None:
            for name, old in body["manifests"].items() if body["number"] == number else ():
                body["manifests"][name] = self._put("manifests", with_shards(self.files[old["path"]], name, change))

        sign_commits(self.files, name_it)

    def record(self, target: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change what the commits say about a target."""

        def name_it(body: dict[str, Any]) -> None:
            data = self.files[body["manifests"][target]["path"]]
            record = read_record(data)
            change(record)
            body["manifests"][target] = self._put("manifests", with_record(data, record))

        sign_commits(self.files, name_it)

    def table(self, kind: str, change: Callable[[dict[str, pa.Array]], None], **extra: Any) -> None:
        """Change the newest plan, or the newest segment of the index."""

        def name_it(body: dict[str, Any]) -> None:
            if body["number"] == 2:
                old = plan_path(body["plan"]) if kind == "plan" else body["index"][-1]["path"]
                data = changed(self.files[old], change)
                made = self._put(kind, data)
                if kind == "plan":
                    body["plan"] = sha256(data)
                else:
                    body["index"][-1] = describe_file(made["path"], data).to_json() | extra

        sign_commits(self.files, name_it)

    def file(
        self,
        target: str,
        part: str,
        data: Callable[[bytes], bytes],
        name: str = "",
        *,
        moves: bool = False,
        number: int = 2,
    ) -> None:
        """Change a file of a target's shard of fragment 1 in a commit.

        If that `moves` columns, change all fragments, and say where the columns are.
        """

        def change(live: LiveShard) -> LiveShard:
            if live.shard.target != target or (live.fragment != 1 and not moves):
                return live
            files, columns = [], live.shard.columns
            for file in live.shard.files:
                if part in file.path:
                    made = data(self.files[file.path])
                    path = file.path.replace(file.sha256, name or sha256(made))
                    self.files[path] = made
                    file = describe_file(path, made)
                    columns = arrow.locate(made) if moves else columns
                files.append(file)
            return replace(live, shard=replace(live.shard, files=tuple(files), columns=columns))

        self.shards(change, number)

    def _put(self, folder: str, data: bytes) -> dict[str, Any]:
        path = hashed_path(folder, sha256(data))
        self.files[path] = data
        return {"path": path, "bytes": len(data), "sha256": sha256(data)}

    def said(self, level: str) -> list[str]:
        for path, data in self.files.items():
            (self.cache / path).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / path).write_bytes(data)
        return [problem.what for problem in softcache.verify(self.cache, level).problems]


def changed(data: bytes, change: Callable[[dict[str, pa.Array]], None]) -> bytes:
    batch = arrow.load(data, "x")
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    change(columns)
    return write(columns, batch.schema.metadata or {})


def of(target: str, change: Callable[[Any], dict[str, Any]], fragments: tuple[int, ...] = (0, 1)) -> Change:
    """Change what is recorded of a target's shards."""
    return lambda s: (
        replace(s, shard=replace(s.shard, **change(s.shard)))
        if s.shard.target == target and s.fragment in fragments
        else s
    )


def other_blocks(shard: Any) -> dict[str, Any]:
    return {"files": tuple(replace(f, blocks=(7,)) if f.path.endswith(".zarr/zarr.json") else f for f in shard.files)}


def other_place(shard: Any) -> dict[str, Any]:
    return {"columns": tuple(replace(c, offset=10**6) for c in shard.columns)}


def other_view(shard: Any) -> dict[str, Any]:
    return {"columns": tuple(replace(c, offset=0) if c.name == "view" else c for c in shard.columns)}


def without_a_file(shard: Any) -> dict[str, Any]:
    return {"files": shard.files[:-1]}


def other_mean(shard: Any) -> dict[str, Any]:
    return {"statistics": shard.statistics | {"mean": 5.0}}


def other_shape(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"shape": [10, 4]}).encode()


def other_ids(columns: dict[str, pa.Array]) -> None:
    columns["sample_id"] = pa.array(range(100, 110))


def other_content(columns: dict[str, pa.Array]) -> None:
    columns["content"] = pa.array([bytes(32)] * 10, pa.binary())


def other_rows(columns: dict[str, pa.Array]) -> None:
    columns["row"] = pa.array([11, 10, *range(12, 20)])


def other_order(columns: dict[str, pa.Array]) -> None:
    for name in columns:
        columns[name] = columns[name].take(pa.array([*range(1, 10), 0]))


def one_more(columns: dict[str, pa.Array]) -> None:
    columns |= {"key": pa.array([*range(10, 20), 99]), "row": pa.array([*range(10, 20), 5])}


def keys(shards: Forger) -> None:
    shards.shards(lambda s: replace(s, shard=replace(s.shard, keys_sha256="0" * 64)) if s.fragment == 1 else s)
    shards.table("plan", lambda c: c.update(keys_sha256=pa.array([bytes(32)], pa.binary(32))))


NAME = "0" * 64
FORGERIES: list[tuple[str, str, Callable[[Forger], None]]] = [
    ("quick", "lies outside its file", lambda f: f.shards(of("feat@t", other_place), 1)),
    ("quick", "not the fragment that the plan has", lambda f: f.shards(lambda s: replace(s, split="test"))),
    ("full", "its block checksums are not those that were", lambda f: f.shards(of("feat@t", other_blocks))),
    ("full", "fragment 1: not its keys hash", keys),
    ("full", "does not hold every sample", lambda f: f.table("index", one_more)),
    ("full", "a segment is not sorted", lambda f: f.table("index", other_order)),
    ("full", "those of the commit", lambda f: f.table("index", lambda c: None, blocks=[7])),
    ("full", "its name is not its hash", lambda f: f.file("cls@t", ".arrow", lambda d: d, NAME)),
    ("full", "its columns do not lie where", lambda f: f.shards(of("cls@t", other_view))),
    ("full", "not those of its fragment", lambda f: f.file("cls@t", ".arrow", lambda d: changed(d, other_ids))),
    ("full", "does not have the files of a shard", lambda f: f.shards(of("feat@t", without_a_file))),
    ("full", "values/zarr.json is not what the page says", lambda f: f.file("feat@t", "values/zarr.json", other_shape)),
    ("full", "not what the teachers saw", lambda f: f.file("rows", ".arrow", lambda d: changed(d, other_content))),
    ("full", "looking its keys up does not give its rows", lambda f: f.table("index", other_rows)),
    ("full", "its values have the statistics", lambda f: f.shards(of("cls@t", other_mean))),
]


@pytest.mark.parametrize(("level", "what", "forge"), FORGERIES, ids=[what for _, what, _ in FORGERIES])
def test_forged(pristine: Path, tmp_path: Path, level: str, what: str, forge: Callable[[Forger], None]) -> None:
    forger = Forger(Path(shutil.copytree(pristine, tmp_path / "cache")))
    forge(forger)
    said = forger.said(level)
    assert any(what in problem for problem in said), said


def test_a_segment_that_is_not_the_commits(pristine: Path, tmp_path: Path) -> None:
    forger = Forger(Path(shutil.copytree(pristine, tmp_path / "cache")))
    for path in (p for p in forger.files if p.startswith("index/")):
        forger.files[path] = forger.files[path][:-1] + b"x"
    assert sum("its sha256 is not the one that was recorded" in problem for problem in forger.said("quick")) == 2


def test_a_first_commit_with_a_parent(pristine: Path, tmp_path: Path) -> None:
    forger, parent = Forger(Path(shutil.copytree(pristine, tmp_path / "cache"))), {"number": 5, "sha256": NAME}
    for path in sorted(p for p in forger.files if p.startswith("commits/")):
        forger.files[path] = dump_document(load_document(forger.files[path], path) | {"parent": parent})
        parent = {"number": 1, "sha256": sha256(forger.files[path])}
    (said,) = forger.said("quick")
    assert "its parent is not the commit before it" in said


def test_pristine(pristine: Path) -> None:
    assert softcache.verify(pristine).ok
    assert np.unique(softcache.open(pristine)["cls"].read(slice(None)).values.numpy(), axis=0).shape == (1, 5)
