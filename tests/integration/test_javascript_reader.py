"""A reader in JavaScript, written from docs/format.md alone, reads the golden caches and refuses damaged ones.

It proves that the page suffices: whatever softcache does beyond the page would be missing there.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READER = ROOT / "readers/javascript"
GOLDEN = ROOT / "tests/golden"
NODE, NPM = shutil.which("node"), shutil.which("npm")
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.skipif(NODE is None or NPM is None, reason="needs node and npm")
def test_reader_in_javascript(tmp_path: Path) -> None:
    assert NODE is not None
    assert NPM is not None
    folder = tmp_path / "javascript"
    shutil.copytree(READER, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = run(NPM, "ci", "--no-audit", "--no-fund", cwd=folder)
    said = installed.stdout + installed.stderr
    if installed.returncode and any(f"code {code}" in said for code in UNREACHABLE):
        pytest.skip("npm cannot reach its registry")
    assert installed.returncode == 0, said

    tested = run(NODE, "test.mjs", str(GOLDEN), cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    lines = tested.stdout.splitlines()
    assert lines[-1] == "all as the page says"
    counted = {name: int(rest.split()[0]) for name, _, rest in (line.rpartition(": ") for line in lines[:-1])}
    assert all(line.endswith(", 0 differences") for line in lines[:-1])
    assert all(count > 0 for count in counted.values())
    caches = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))["caches"]
    targets = {f"{cache}: {target}" for cache, vectors in caches.items() for target in vectors["targets"]}
    assert targets == {name.partition(" (")[0] for name in counted if "@" in name}
    groups = {f"{cache}: {what}" for cache in caches for what in ("keys", "hashes", "layout", "the first commit")}
    assert groups | {"canonical JSON", "v1: damage", "words: damage", "refusals"} <= set(counted)
