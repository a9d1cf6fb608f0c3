"""Files that readers map or copy: too many to map at once, pipes, damaged copies, reads during exit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Workshop

from softcache.errors import (
    IntegrityError,
    SoftcacheError,
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_more_shards_than_mappings(workshop: Workshop) -> None:
    """Shards that a batch is about to read are never unmapped to make room."""
    workshop.build("build.fragment_rows=1")
    run = python(
        "import softcache, softcache.read.span as s, numpy as np; s.MAX_MAPPINGS = 5\n"
        f"t = softcache.open({str(workshop.cache)!r})['cls']; all_rows = t.read(list(range(40))).values\n"
        "rng = np.random.default_rng(0)\n"
        "for _ in range(200):\n"
        "    rows = rng.integers(0, 40, rng.integers(1, 40))\n"
        "    assert t.read(rows).values.equal(all_rows[rows]) and t.lookup(rows).values.equal(all_rows[rows])\n"
        "assert len(s._mapped) <= 80, len(s._mapped)"
    )
    assert run.returncode == 0, run.stderr


def test_a_thread_that_reads_at_exit(workshop: Workshop) -> None:
    workshop.build()
    code = (
        f"import softcache, threading, time\nt = softcache.open({str(workshop.cache)!r})['cls']\n"
        "def loop():\n    while True:\n        t.lookup(list(range(40)) * 20)\n"
        "for _ in range(3):\n    threading.Thread(target=loop, daemon=True).start()\ntime.sleep(0.3)\n"
    )
    # Torch itself may abort (-6) when a daemon thread is in one of its operators then; it must not be a segfault.
    assert -11 not in [python(code).returncode for _ in range(3)]


def test_pipes_do_not_hang_readers(workshop: Workshop) -> None:
    workshop.build()
    (shard,) = (workshop.cache / "data/cls@t").rglob("train-000000-*.arrow")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(IntegrityError, match="not a regular file"):
        workshop.open()["cls"].lookup([1])
    commit = workshop.cache / "commits/00000000000000000001.json"
    commit.unlink()
    os.mkfifo(commit)
    with pytest.raises(SoftcacheError, match="not a regular file"):
        workshop.open()


def test_a_corrupt_local_copy_is_fetched_again(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    workshop.cache = f"memory://{tmp_path.name}/c"  # type: ignore[assignment]
    workshop.build()
    for path in (tmp_path / "home/files").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert torch.allclose(workshop.open()["cls"].lookup(range(40)).values.double(), workshop.answers(), atol=1e-5)
