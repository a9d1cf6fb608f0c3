"""Format version 1: its values for ever, and its bytes as the pinned pyarrow writes them."""

import hashlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import torch
from golden_caches import V1 as GOLDEN
from golden_caches import VALUES
from make import HERE, make, make_views

import softcache

IDS = ["zebra", "änderung", "日本", "a b", "42"]


def test_values() -> None:
    cache = softcache.open(GOLDEN)
    assert cache.rows.table()["sample_id"].to_pylist() == IDS
    for name, dtype in (("cls@g", torch.float16), ("half@g", torch.bfloat16)):
        soft = cache[name].lookup(IDS)
        assert soft.mask.tolist() == [True] * 4 + [False]
        assert soft.values.dtype == dtype
        assert torch.equal(soft.values[:4], VALUES.to(dtype))
    check_compressed(cache)
    check_kinds(cache)
    assert torch.equal(cache["maps"].lookup(IDS[:4]).values, VALUES[:, None].expand(-1, 2, -1))
    assert cache["cls"].task.labels == ("x", "y", "z")
    assert cache.committed("cls@g").skipped == [["42", 0, "NaN"]]
    assert softcache.open(GOLDEN, commit=1).commit.rows == 3


def check_kinds(cache: softcache.Cache) -> None:
    """Every layout, every part, every label space."""
    tags = cache["tags"].lookup(IDS[:4])
    assert torch.allclose(tags.log_probs(2.0), torch.nn.functional.logsigmoid(VALUES.half().float() / 2))
    seg = cache["seg"].lookup(IDS[:1]).sparse_log_probs(2.0)
    assert seg.ids.tolist() == [[[[0], [2]], [[2], [0]]]], "classes of both places, the second mirrored"
    assert torch.allclose(seg.log_probs[0, 0, :, 0], (VALUES[0] / 2).log_softmax(0)[0].expand(2), atol=2e-3)
    found = cache["found"].lookup(IDS)
    assert found.lengths.tolist() == [2, 1, 4, 1, 0]
    assert found.parts["boxes"][2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert found.parts["scores"][0, :2].tolist() == [0.5, 0.5]
    depth = cache["depth"].lookup(IDS)
    assert torch.equal(depth.values[:4], VALUES)
    assert torch.equal(depth.parts["variance"][:4], VALUES**2 + 1)
    assert depth.parts["variance"][4].isnan().all()
    expert = cache["expert"].task
    assert (expert.known, expert.space, expert.dustbin) == ((2, 0), 4, True)
    ids, log_p, log_tail = cache["asked"].lookup(IDS[:1]).sparse_log_probs()
    assert ids.tolist() == [[2, 7]]
    assert log_p.tolist() == [[-0.5, -1.0]]
    assert float(log_tail) == pytest.approx(math.log(1 - math.exp(-0.5) - math.exp(-1)), abs=1e-5)


def check_compressed(cache: softcache.Cache) -> None:
    """The compressed targets give what docs/format.md says of their bytes, at temperatures on the nodes and off."""
    for temperature in (0.5, 0.77, 2.0, 20.0):
        whole = torch.full((4, 67), 1.0).double() * (VALUES.double().amin(1, keepdim=True) - 4)
        whole[:, 64:] = VALUES
        expected = (whole / temperature).log_softmax(1)
        ids, log_probs, log_tail = cache["top"].lookup(IDS).sparse_log_probs(temperature)
        assert sorted(ids[0].tolist()) == [69_997, 69_998, 69_999]
        assert ids[1].tolist() == [69_998, 69_997, 69_999]
        place = ids[:4] - 69_997 + 64
        assert torch.allclose(log_probs[:4].double().exp(), expected.gather(1, place).exp(), atol=2e-3)
        assert torch.allclose(log_tail[:4].double().exp(), expected[:, :64].exp().sum(1), atol=2e-3)
        assert log_probs[4].isnan().all()
        assert torch.allclose(
            cache["quant"].lookup(IDS[:1]).log_probs(temperature).double().exp(),
            (VALUES[:1].double() / temperature).softmax(1),
            atol=0.01,
        )
    near = cache["near"].lookup(IDS).log_probs(2.0)
    logits = VALUES / 2 + torch.tensor([0.0, 1.0, 2.0])
    assert torch.allclose(near[:4].exp(), (logits / 2).softmax(1), atol=0.02)
    assert near[4].isnan().all()
    frames = cache["frames"].lookup(IDS)
    assert frames.mask.sum(1).tolist() == [2, 1, 4, 1, 0]
    assert torch.equal(
        frames.packed.values,
        torch.cat(
            [VALUES[[0]] * 0, VALUES[[0]], VALUES[[1]] * 0] + [VALUES[[2]] * t for t in range(4)] + [VALUES[[3]] * 0]
        ),
    )
    drawn = cache["drawn"].lookup(IDS[:4])
    assert drawn.columns["counts"].int().sum(1).tolist() == [4] * 4


def test_a_sketch_by_hand() -> None:
    """The columns of one row of `top`, read with pyarrow and worked out from the format page alone."""
    with pa.ipc.open_stream(next((GOLDEN / "data/top@g").rglob("*.arrow"))) as stream:
        row = stream.read_next_batch().to_pylist()[0]
    gaps = [code / 1024 if code <= 49_152 else 48 + (code - 49_152) / 32 for code in row["gaps"]]
    nodes = [0, *(m / 64 for m in (2, 8, 16, 32, 48, 64, 96, 128))]
    sketch = [code / 4096 for code in row["sketch"]]
    u = [math.log(1 + beta / 0.3) for beta in nodes]
    for temperature in (0.6, 1.0, 5.0):
        x = math.log(1 + 1 / temperature / 0.3)
        lagrange = (math.prod((x - b) / (a - b) for b in u if b != a) for a in u)
        tail = sum(weight * value for weight, value in zip(lagrange, sketch, strict=True)) - gaps[-1] / temperature
        heads = [-gap / temperature for gap in (0, *gaps[:-1])]
        total = math.log(sum(map(math.exp, (*heads, tail))))
        soft = softcache.open(GOLDEN)["top"].lookup([row["sample_id"]]).sparse_log_probs(temperature)
        assert soft.log_probs[0].tolist() == pytest.approx([h - total for h in heads], abs=1e-5)
        assert float(soft.log_tail[0]) == pytest.approx(tail - total, abs=1e-5)


@pytest.mark.parametrize(("name", "write"), [("v1", make), ("views", make_views)])
def test_the_same_bytes_are_written_today(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    golden = HERE / name
    folders = ("data", "plan", "index", "tables")

    def files(root: Path) -> dict[str, str]:
        found = (p for folder in folders for p in (root / folder).rglob("*") if p.is_file())
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    assert files(tmp_path / name) == files(golden)
    for ours, theirs in zip(manifests(tmp_path / name), manifests(golden), strict=True):
        assert [row for row, _ in ours] == [row for row, _ in theirs]
        # Measured in float32, whose last bits differ between processors.
        for (_, errors), (_, expected) in zip(ours, theirs, strict=True):
            assert errors == pytest.approx(expected, rel=0.02, abs=5e-6)
    assert {p.name for p in (tmp_path / name / "receipts").rglob("*.json")} == {
        p.name for p in golden.glob("receipts/*/*/*.json")
    }
    assert (tmp_path / name / "README.md").read_bytes() == (golden / "README.md").read_bytes()


def manifests(root: Path) -> list[list[tuple[dict, dict[str, float]]]]:
    """The rows of each commit's manifests, and apart from each row the errors that were measured."""
    found = []
    for commit in sorted((root / "commits").rglob("*.json")):
        for reference in json.loads(commit.read_text())["manifests"].values():
            with pa.ipc.open_stream((root / reference["path"]).read_bytes()) as stream:
                rows = stream.read_next_batch().to_pylist()
            found.append([without_errors(row) for row in rows])
    return found


def without_errors(row: dict) -> tuple[dict, dict[str, float]]:
    statistics = json.loads(row["statistics"])
    measured = statistics.pop("errors", {"at": {}})
    at = measured.pop("at")
    figures = {
        f"{temperature} {name} {which}": math.inf if figure is None else figure
        for temperature, by_name in at.items()
        for name, extent in by_name.items()
        for which, figure in zip(("largest", "mean"), extent, strict=True)
    }
    return row | {"statistics": statistics, "measured": measured}, figures


def test_views_by_hand() -> None:
    """Parameters and checks, read with pyarrow and worked out from the format page alone."""
    x = {30: [1, 2, 3], 10: [-4, 0, 8], 20: [200, 0, 0], 40: [16, 0.5, 0]}
    seen = 0
    for path in (HERE / "views/data/rows").rglob("*.arrow"):
        with pa.ipc.open_stream(path) as stream:
            samples = stream.read_next_batch().to_pylist()
        for row in samples:
            for drawn, check in zip(json.loads(row["parameters"]), row["check"], strict=True):
                if row["sample_id"] == 20:
                    assert drawn is None
                    assert check == [0] * 8
                    continue
                mixed = np.array(x[row["sample_id"]]) * drawn["quarters"] + np.array(x[drawn["partner"]]) * (
                    4 - drawn["quarters"]
                )
                view = (mixed / 4)[:: -1 if drawn["reversed"] else 1].astype("<f4")
                head = (
                    b"view" + struct.pack("<Q", 0) + b"a" + struct.pack("<Q", 7) + b"float32" + struct.pack("<2Q", 1, 3)
                )
                exact, h = google_crc32c.value(head + view.tobytes()), struct.pack("<I", google_crc32c.value(head))
                unit = float(abs(view).max()) / 255
                sums = [sum(sign(i, j) * float(v) for i, v in enumerate(view)) / unit / 3**0.5 for j in range(4)]
                scales = [round((128 - 13 * j) * math.log2(unit)) for j in range(4)]
                sketch = bytes((a + round(b) + c) % 256 for a, b, c in zip(h, sums, scales, strict=True))
                assert bytes(check) == struct.pack("<I", exact) + sketch
                seen += 1
    assert seen == 9
    cache = softcache.open(HERE / "views")
    assert (cache.commit.rows, cache.commit.views) == (12, 3)
    assert cache["cls"].stats["skipped_rows"] == 3


def sign(i: int, j: int) -> int:
    """The sign of number i in sum j of a sketch."""
    mask, h = 2**64 - 1, i + 0x9E3779B97F4A7C15
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & mask
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & mask
    h ^= h >> 31
    return -1 if h >> j & 1 else 1


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("name", ["v1", "views", "words"])
def test_verify(level: str, name: str) -> None:
    result = softcache.verify(HERE / name, level)
    assert result.ok, result.problems


def test_words() -> None:
    """A language model's tokens and stored positions; each codec gives what the model said, as closely as it can."""
    samples = [json.loads(line) for line in (HERE / "words_recipe/texts.jsonl").read_text().splitlines()]
    cache = softcache.open(HERE / "words")
    for name in cache.targets:
        table = cache[name].table()
        assert table["input_ids"].to_pylist() == [each["tokens"] for each in samples]
        stored = [[t for t, said in enumerate(each["said"][1:]) if said] for each in samples]
        assert table["positions"].to_pylist() == stored
    rows = [each["id"] for each in samples]
    exact = cache["dense"].lookup(rows).packed.probs(2.0)
    assert len(exact) == 13
    for name, close in (("shaped", 0.15), ("small", 1e-3), ("steps", 0.02), ("near", 2e-3)):
        found = cache[name].lookup(rows).packed.probs(2.0)
        assert float((found - exact).abs().sum(1).max()) / 2 < close, name


def test_an_arrow_shard_by_hand() -> None:
    """The values lie where the manifest says, as plain little-endian numbers."""
    cache = softcache.open(GOLDEN)
    live = next(s for s in cache.state.live() if s.shard.target == "cls@g")
    column = next(c for c in live.shard.columns if c.name == "values")
    data = (GOLDEN / live.shard.files[0].path).read_bytes()
    found = np.frombuffer(data[column.offset : column.offset + column.bytes], "<f2").reshape(-1, 3)
    assert np.array_equal(found, VALUES[:3].half().numpy())
