"""Files that readers map or copy: too many to map at once, pipes, damaged copies, reads during exit."""

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop

import softcache
from softcache.errors import IntegrityError, SoftcacheError, StorageError
from softcache.read import span
from softcache.store.commits import commit_path
from softcache.store.files import connect
from softcache.store.state import read_state


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
    with pytest.raises(IntegrityError, match="not a regular file"):
        workshop.open()["cls"].table()
    commit = workshop.open().commit
    feat = commit.manifests["feat@t"].path
    for path, act in (
        (feat, lambda cache: cache["feat"]),
        (commit.index[0].path, lambda cache: cache["cls"].lookup([1])),
        (commit.manifests["rows"].path, repr),
        (commit_path(1), repr),
    ):
        (workshop.cache / path).unlink()
        os.mkfifo(workshop.cache / path)
        with pytest.raises(SoftcacheError, match="not a regular file"):
            act(workshop.open())


@pytest.mark.parametrize("how", ["shortened", "flipped"])
def test_a_corrupt_local_copy_is_fetched_again(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Manifests, segments and shards; a file that is damaged in the storage too is still an error."""
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    workshop.cache = f"memory://{tmp_path.name}/c"  # type: ignore[assignment]
    workshop.build()
    for path in (tmp_path / "home/files").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()  # the old one may still be mapped
            path.write_bytes(data[:-1] if how == "shortened" else bytes(byte ^ 1 for byte in data))
    for name in ("cls", "feat"):
        found = workshop.open()[name].lookup(range(40)).values.double()
        assert torch.allclose(found, workshop.answers(name), atol=1e-2)
    assert ("a damaged copy of a file of memory://" in caplog.text) == (how == "flipped")
    files = connect(workshop.cache)
    manifest = read_state(files).commit.manifests["rows"]
    files.replace(manifest.path, bytes(byte ^ 1 for byte in files.read(manifest.path)))
    files.forget_local(manifest.sha256)
    with pytest.raises(IntegrityError, match=r"manifests/.* its sha256 is not"):
        workshop.open()


def test_verify_reads_what_is_stored(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local copies answer for the storage neither when they are whole nor when they are damaged."""
    monkeypatch.setenv("SOFTCACHE_HOME", str(tmp_path / "home"))
    workshop.cache = f"memory://{tmp_path.name}/c"  # type: ignore[assignment]
    workshop.build()
    everything = workshop.open()["cls"].lookup(range(40)), workshop.open()["feat"].lookup(range(40))
    assert all(bool(soft.mask.all()) for soft in everything)
    assert softcache.verify(workshop.cache).ok
    files = connect(workshop.cache)
    shard = next(path for path, _, _ in files.walk("data/cls@t"))
    whole = files.read(shard)
    files.replace(shard, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [p.path for p in softcache.verify(workshop.cache).problems] == [shard]
    files.replace(shard, whole)
    for path in (tmp_path / "home/files").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            path.unlink()  # the old one may still be mapped
            path.write_bytes(bytes(byte ^ 1 for byte in data))
    assert softcache.verify(workshop.cache).ok
    assert workshop.build().up_to_date, "a damaged copy of the plan is fetched again"


def test_mappings_stay_below_their_limit(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are unmapped before others are mapped, whatever a batch touches, and with several caches at once."""
    workshop.recipe["build"]["fragment_rows"] = 1
    workshop.samples(60)
    workshop.build()
    monkeypatch.setattr(span, "MAX_MAPPINGS", 50)
    monkeypatch.setattr(span, "EVICTED_AT_ONCE", 5)
    monkeypatch.setattr(span, "_mapped", OrderedDict())
    caches, most, mapped = [workshop.open(), workshop.open()], [], span._map

    def counted(*arguments: Any) -> int:
        most.append(len(span._mapped))
        return mapped(*arguments)

    monkeypatch.setattr(span, "_map", counted)
    order = np.random.default_rng(0)
    for _ in range(5):
        for cache in caches:
            for name in ("cls", "feat"):
                ids = order.permutation(60)[:45]
                found = cache[name].lookup(ids).values.double()
                assert torch.allclose(found, workshop.answers(name)[ids], atol=1e-2)
    assert 45 <= max(most) <= 50
    assert len(caches[0]["cls"].lookup(range(60))) == 60, "a batch of more is mapped all the same"


def test_closed(workshop: Workshop) -> None:
    """What was looked up stays; whatever is read afterwards is an error, not a fault of the process."""
    workshop.recipe["tasks"]["late"] = workshop.recipe["tasks"]["feat"] | {"output": "feat"}
    workshop.build()
    with workshop.open() as cache:
        found, target = cache["cls"].lookup(range(40)), cache["cls"]
        cache["feat"]
        part = cache.split("train")
    assert torch.allclose(found.values.double(), workshop.answers(), atol=1e-3)
    for act in (
        lambda: target.lookup([1]),
        lambda: cache["feat"].lookup([1]),
        lambda: cache["late"],
        lambda: cache.check_contents([1], np.zeros((1, 32), np.uint8)),
    ):
        with pytest.raises(StorageError, match="has been closed; open it again"):
            act()
    assert part["cls"].lookup([1]).values.equal(found[[1]].values), "another Cache of the same files"
    assert workshop.open()["cls"].lookup([1]).values.equal(found[[1]].values)
    cache.close()


@pytest.mark.parametrize(
    "act",
    ["t.read(rng.integers(0, 40, 7)).keys.ids", "softcache.open(cache)['cls'].read([1]).values"],
    ids=["keys", "open"],
)
def test_forks_while_another_thread_reads(workshop: Workshop, act: str) -> None:
    """No lock that a reader needs is held for ever in a child."""
    workshop.build()
    run = python(
        "import os, signal, threading, softcache, numpy as np\n"
        f"cache = {str(workshop.cache)!r}; t = softcache.open(cache)['cls']\n"
        "def loop():\n"
        "    rng = np.random.default_rng(0)\n"
        "    while True:\n"
        f"        {act}\n"
        "threading.Thread(target=loop, daemon=True).start()\n"
        "rng = np.random.default_rng(1)\n"
        "for i in range(100):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        signal.alarm(20)\n"
        f"        {act}\n"
        "        os._exit(0)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    assert code == 0, code\n"
        "os._exit(0)"
    )
    assert run.returncode == 0, run.stderr


def test_forks_while_another_thread_maps(workshop: Workshop) -> None:
    """A child is never forked between a shard's mapping and the note of it: it would read what is not mapped."""
    workshop.build("build.fragment_rows=1")
    run = python(
        "import os, threading, softcache, softcache.read.span as s, numpy as np; s.MAX_MAPPINGS = 5\n"
        f"t = softcache.open({str(workshop.cache)!r})['cls']; whole = t.read(list(range(40))).values\n"
        "def loop():\n"
        "    rng = np.random.default_rng(0)\n"
        "    while True:\n"
        "        t.read(rng.integers(0, 40, 7))\n"
        "threading.Thread(target=loop, daemon=True).start()\n"
        "for i in range(100):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        same = all(t.read([row]).values.equal(whole[[row]]) for row in range(40))\n"
        "        os._exit(0 if same else 1)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    assert code == 0, code\n"
        "os._exit(0)"
    )
    assert run.returncode == 0, run.stderr
