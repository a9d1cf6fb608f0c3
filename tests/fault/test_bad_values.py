"""One value in a million is wrong, over ten million values: every such sample is reported by its id."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop

from softcache.errors import AlignmentError, CodecError
from softcache.store.keys import duplicates

ROWS, CLASSES, PER_MILLION = 10_000, 1_000, 1
WRONG = {"NaN": np.nan, "+Inf": np.inf, "-Inf": -np.inf, "too large for float16": 7e4}
MODEL = """
import pathlib
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


class Given(torch.nn.Module):
    def forward(self, rows):
        return torch.from_numpy(np.load(HERE / "logits.npy", mmap_mode="r")[rows.numpy()])


def samples():
    return {"id": [f"sample {i}" for i in range(10_000)], "row": np.arange(10_000)}


def preprocess(sample):
    return torch.tensor(sample["row"])
"""


@pytest.fixture
def planted(workshop: Workshop) -> dict[str, set[str]]:
    """A recipe whose teacher answers with planted faults: the ids of the samples that have each."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 5, (ROWS, CLASSES)).astype(np.float32)
    count = ROWS * CLASSES * PER_MILLION // 1_000_000
    rows = random.choice(ROWS, (len(WRONG), count), replace=False)
    for value, chosen in zip(WRONG.values(), rows, strict=True):
        logits[chosen, random.integers(0, CLASSES, count)] = value
    np.save(workshop.folder / "logits.npy", logits)
    workshop.write("model.py", MODEL)
    workshop.recipe = {
        "transfer_set": {"source": {"type": "python", "callable": "model:samples"}, "id": "id"},
        "teachers": {
            "t": {"model": "model:Given", "preprocess": "model:preprocess", "reads": ["row"], "weights": None}
        },
        "tasks": {"cls": {"kind": "classification", "classes": CLASSES, "value_kind": "logits", "teachers": ["t"]}},
        "build": {"batch_size": 500, "fragment_rows": 2500},
    }
    return {kind: {f"sample {row}" for row in chosen} for kind, chosen in zip(WRONG, rows, strict=True)}


def test_all_are_listed(workshop: Workshop, planted: dict[str, set[str]]) -> None:
    workshop.build("build.on_bad_sample=skip")
    target = workshop.open().committed("cls@t")
    for kind, ids in planted.items():
        assert {sample for sample, _, reason in target.skipped if kind in reason} == ids
    everyone = set().union(*planted.values())
    assert target.skipped_rows == len(everyone) == 10 * len(WRONG)
    soft = workshop.open()["cls"].read(slice(None))
    assert {str(i) for i in soft.ids[~soft.mask.numpy()]} == everyone
    assert soft.values[soft.mask].isfinite().all()


def test_the_first_stops_the_build(workshop: Workshop, planted: dict[str, set[str]]) -> None:
    with pytest.raises(CodecError) as error:
        workshop.build()
    named = set(re.findall(r"sample \d+", str(error.value)))
    rows = sorted(int(sample.split()[1]) for ids in planted.values() for sample in ids)
    batch = {f"sample {row}" for row in rows if row // 500 == rows[0] // 500}
    assert named == batch
    assert not (workshop.cache / "commits").exists()


@pytest.mark.parametrize("text", [False, True])
def test_duplicates_far_apart(text: bool) -> None:
    ids = np.random.default_rng(0).permutation(1_000_000)
    ids[[0, 500_000]] = ids[[999_999, 1]]
    array = pa.array(ids).cast(pa.string()) if text else pa.array(ids)
    assert sorted(map(int, duplicates(array))) == sorted(ids[[0, 1]].tolist())
    assert duplicates(array[2:400_000]) == []


def test_duplicates_are_found_in_bounded_memory(tmp_path: Path) -> None:
    """In a process that may not take 24 bytes an id more than the ids themselves: 4 million ids of 40 characters."""
    code = """
import json, resource
import numpy as np, pyarrow as pa
from softcache.store.keys import duplicates
ids = np.char.zfill(np.arange(4_000_000).astype("S7"), 40)
ids[3_999_999] = ids[0]
data, offsets = pa.py_buffer(ids), pa.py_buffer(np.arange(4_000_001, dtype=np.int32) * 40)
array = pa.Array.from_buffers(pa.string(), 4_000_000, [None, offsets, data])
duplicates(array[:100_000])
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + 24 * 4_000_000 + 2**26, -1))
print(json.dumps(duplicates(array)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == ["0".zfill(40)]


def test_a_build_names_duplicates_far_apart(workshop: Workshop) -> None:
    workshop.samples(9_000, ids=[*range(8_999), 0])
    with pytest.raises(AlignmentError, match="duplicate ids 0"):
        workshop.build()
