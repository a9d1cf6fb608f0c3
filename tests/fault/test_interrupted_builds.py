"""Builds that are killed or asked to stop: the next one finishes their work and repeats none of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop

import softcache
from softcache.errors import (
    IncompleteCache,
)

COMMAND = [sys.executable, "-m", "softcache"]


def everything(cache: softcache.Cache) -> dict[str, Any]:
    """Return all rows of all targets, in the order of ids."""
    ids = cache.rows.table()["sample_id"].to_pylist()
    found: dict[str, Any] = {"ids": ids}
    for name in cache.targets:
        soft = cache[name].lookup(ids)
        found[name] = (soft.values.numpy().tobytes(), soft.mask.tolist())
    return found


def test_killed_in_the_middle(workshop: Workshop, tmp_path: Path) -> None:
    (workshop.folder / "kill_after").write_text("8")
    recipe = workshop.save()
    command = [sys.executable, "-c", f"import softcache; softcache.build({str(recipe)!r}, {str(workshop.cache)!r})"]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    first = workshop.calls()
    with pytest.raises(IncompleteCache, match="run the same build again"):
        workshop.open()
    targets = [json.loads(p.read_text())["target"] for p in (workshop.cache / "receipts").rglob("*.json")]
    assert targets.count("rows") == 4
    done = min(targets.count("cls@t"), targets.count("feat@t"))
    assert done == 2
    summary = workshop.build()
    left = 40 - 10 * done
    assert summary.answered == left
    assert left <= workshop.calls() <= left + 8, "only what was unfinished, and canaries"
    assert first == 28
    (tmp_path / "other").mkdir()
    other = Workshop(tmp_path / "other")
    other.build()
    assert everything(workshop.open()) == everything(other.open())
    assert softcache.verify(workshop.cache).ok


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_what_has_begun(workshop: Workshop, number: int) -> None:
    workshop.samples(1200)
    slow = (
        (workshop.folder / "model.py")
        .read_text()
        .replace("        return {", "        time.sleep(0.01)\n        return {")
    )
    (workshop.folder / "model.py").write_text(slow)
    process = subprocess.Popen(
        [*COMMAND, "build", str(workshop.save()), "-o", str(workshop.cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while workshop_receipts(workshop) < 125 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "Run the same command again" in errors
    done = workshop_receipts(workshop)
    workshop.calls()
    assert done >= 125
    summary = workshop.build()
    assert summary.answered < 1200
    assert summary.rows == 1200


def workshop_receipts(workshop: Workshop) -> int:
    return len(list((workshop.cache / "receipts").rglob("*.json")))


@pytest.mark.parametrize(
    "how", ["time.sleep(1e6)", "[torch.randn(400, 400) @ torch.randn(400, 400) for _ in range(10**9)]"]
)
def test_a_second_signal_ends_a_build_that_hangs(workshop: Workshop, how: str) -> None:
    """A user's `preprocess` waits for ever in the thread that reads: nothing waits for it."""
    hangs = (
        (workshop.folder / "model.py")
        .read_text()
        .replace(
            "def preprocess(sample):\n",
            "def preprocess(sample):\n"
            "    if (HERE / 'hang').exists():\n"
            "        (HERE / 'hangs').touch()\n"
            f"        {how}\n",
        )
    )
    (workshop.folder / "model.py").write_text(hangs)
    (workshop.folder / "hang").touch()
    process = subprocess.Popen(
        [*COMMAND, "build", str(workshop.save()), "-o", str(workshop.cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (workshop.folder / "hangs").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first one lets what has begun finish"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "interrupted; run the same command again" in errors
    (workshop.folder / "hang").unlink()
    assert workshop.build().answered == 40


def test_fragment_rows_changed_in_an_unfinished_build(workshop: Workshop) -> None:
    workshop.build()
    for path in (workshop.cache / "commits").rglob("*.json"):
        path.unlink()
    workshop.calls()
    assert workshop.build("build.fragment_rows=7").answered == 0
    assert workshop.calls() == 0


def test_a_build_that_is_begun_anew_with_fewer_samples(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receipts are of other fragments by number: the shards are used, under the names that they have."""
    from softcache.builder.publish import commit

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    workshop.samples(20)
    monkeypatch.setattr(commit, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        workshop.build()
    monkeypatch.undo()
    whole = json.loads((workshop.folder / "samples.json").read_text())
    some = {"id": whole["id"][10:], "x": whole["x"][40:], "label": whole["label"][10:]}
    (workshop.folder / "samples.json").write_text(json.dumps(some))
    assert workshop.build().answered == 0
    assert softcache.verify(workshop.cache).problems == []
    assert workshop.open()["cls"].lookup(range(10, 20)).values.shape == (10, 5)
