"""The table of docs/how-it-works.md: what other programs read of a cache, and what they do not."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from golden_caches import V1, VALUES

import softcache
from softcache.store.files import connect
from softcache.store.live_shards import LiveShard
from softcache.store.state import read_state

HALF = VALUES.half().float().tolist()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported")
    softcache.export(V1, output)
    return output


def shards(target: str) -> list[LiveShard]:
    return [live for live in read_state(connect(V1)).live() if live.shard.target == target]


def paths(target: str) -> list[Path]:
    return [V1 / live.shard.files[0].path for live in shards(target)]


def answered(rows: Iterable[dict[str, Any]]) -> list[list[float]]:
    return [list(map(float, row["values"])) for row in rows if row["valid"]]


def table(target: str) -> pa.Table:
    return pa.concat_tables([pa.ipc.open_stream(path).read_all() for path in paths(target)])


def test_datasets(tmp_path: Path, exported: Path) -> None:
    rows = datasets.load_dataset(str(V1), "cls@g", split="train", cache_dir=str(tmp_path))
    assert answered(rows) == HALF
    path = str(exported / "cls@g/train.parquet")
    assert answered(datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path))) == HALF


def test_pyarrow_and_pandas(exported: Path) -> None:
    assert answered(table("cls@g").to_pylist()) == HALF
    frames = pd.concat([pa.ipc.open_stream(path).read_pandas() for path in paths("cls@g")])
    assert answered(frames.to_dict("records")) == HALF
    assert answered(pq.read_table(exported / "cls@g/train.parquet").to_pylist()) == HALF
    assert answered(pd.read_parquet(exported / "cls@g/train.parquet").to_dict("records")) == HALF


def test_polars(exported: Path) -> None:
    assert answered(pl.concat([pl.read_ipc_stream(path) for path in paths("cls@g")]).to_dicts()) == HALF
    assert answered(pl.scan_parquet(exported / "cls@g/train.parquet").collect().to_dicts()) == HALF
    with pytest.raises(pl.exceptions.ComputeError, match="InvalidFooter"):
        pl.scan_ipc(paths("cls@g")[0]).collect()


def found_ids() -> list[str]:
    return [row["sample_id"] for row in table("cls@g").to_pylist() if row["valid"]]


def test_duckdb(exported: Path) -> None:
    found = (
        duckdb.from_arrow(table("depth@g")).filter("valid").order("sample_id").select("sample_id, values").fetchall()
    )
    order = sorted(range(4), key=lambda place: found_ids()[place])
    assert [list(row) for _, row in found] == [VALUES.tolist()[place] for place in order]
    with pytest.raises(duckdb.NotImplementedException):
        duckdb.from_arrow(table("cls@g")).fetchall()
    for target in ("cls@g", "maps@g", "found@g", "top@g"):
        path = exported / target / "train.parquet"
        assert len(duckdb.sql(f"select * from read_parquet('{path}')").fetchall()) == 5


def test_numpy_and_zarr(exported: Path) -> None:
    (first, *_) = shards("cls@g")
    column = first.shard.columns[0]
    assert (column.name, column.dtype) == ("values", "float16")
    mapped = np.memmap(V1 / first.shard.files[0].path, "<f2", "r", column.offset, (first.shard.rows, 3))
    assert mapped.tolist() == HALF[: first.shard.rows]
    (first, *_) = shards("maps@g")
    (column,) = (c for c in first.shard.columns if c.name == "values")
    chunk = V1 / first.shard.files[column.file].path
    mapped = np.memmap(chunk, "<f4", "r", column.offset, (first.shard.rows, 2, 3))
    group = zarr.open_group(str(chunk).partition(".zarr/")[0] + ".zarr", mode="r")
    assert np.array_equal(mapped, group["values"][:])
    assert mapped[:, 0].tolist() == VALUES[: first.shard.rows].tolist()
    assert group.attrs["softcache"]["target"] == "maps@g"
    exported_maps = pq.read_table(exported / "maps@g/train.parquet")["values"].to_pylist()
    assert np.shape(exported_maps) == (5, 2, 3)


def test_a_shard_says_what_it_is() -> None:
    schema = pa.ipc.open_stream(paths("top@g")[0]).schema
    about = pl.Series([schema.metadata[b"softcache"].decode()]).str.json_decode(
        pl.Struct({"target": pl.String, "codec": pl.Struct({"name": pl.String, "k": pl.Int64})})
    )
    assert about.to_list() == [{"target": "top@g", "codec": {"name": "topk", "k": 3}}]
    assert all(c.offset % 64 == 0 for live in shards("top@g") for c in live.shard.columns)
