"""Format version 1: its values for ever, and its bytes as the pinned pyarrow writes them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from make import HERE, make

import softcache

GOLDEN = HERE / "v1"
VALUES = torch.tensor([[1.5, -2.0, 0.25], [0.0, 60.0, -60.0], [3.0, 3.0, 3.0], [-0.5, 8.0, 1e-3]])
IDS = ["zebra", "änderung", "日本", "a b", "42"]


def test_values() -> None:
    cache = softcache.open(GOLDEN)
    assert cache.rows.table()["sample_id"].to_pylist() == IDS
    for name, dtype in (("cls@g", torch.float16), ("half@g", torch.bfloat16)):
        soft = cache[name].lookup(IDS)
        assert soft.mask.tolist() == [True] * 4 + [False]
        assert soft.values.dtype == dtype
        assert torch.equal(soft.values[:4], VALUES.to(dtype))
    assert torch.equal(cache["maps"].lookup(IDS[:4]).values, VALUES[:, None].expand(-1, 2, -1))
    assert cache["cls"].task.labels == ("x", "y", "z")
    assert cache.commit.targets["cls@g"].skipped == [["42", 0, "NaN"]]
    assert softcache.open(GOLDEN, commit=1).commit.rows == 3


def test_the_same_bytes_are_written_today(tmp_path: Path) -> None:
    make(tmp_path / "v1")
    folders = ("data", "plan", "index", "manifests")

    def files(root: Path) -> dict[str, str]:
        found = (p for folder in folders for p in (root / folder).rglob("*") if p.is_file())
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    assert files(tmp_path / "v1") == files(GOLDEN)
    assert {p.name for p in (tmp_path / "v1/receipts").iterdir()} == {p.name for p in (GOLDEN / "receipts").iterdir()}
    assert (tmp_path / "v1/README.md").read_bytes() == (GOLDEN / "README.md").read_bytes()


@pytest.mark.parametrize("level", ["quick", "full"])
def test_verify(level: str) -> None:
    result = softcache.verify(GOLDEN, level)
    assert result.ok, result.problems


def test_an_arrow_shard_by_hand() -> None:
    """The values lie where the manifest says, as plain little-endian numbers."""
    cache = softcache.open(GOLDEN)
    live = next(s for s in cache._state.manifest.live() if s.shard.target == "cls@g")
    column = next(c for c in live.shard.columns if c.name == "values")
    data = (GOLDEN / live.shard.files[0].path).read_bytes()
    found = np.frombuffer(data[column.offset : column.offset + column.bytes], "<f2").reshape(-1, 3)
    assert np.array_equal(found, VALUES[:3].half().numpy())
