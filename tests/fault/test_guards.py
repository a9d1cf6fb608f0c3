"""Without any one of its guards, the package fails a test."""

import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from guards import GUARDS as WRITING
from guards import Guard
from guards_read import GUARDS as READING
from guards_stored import GUARDS as STORED
from guards_views import GUARDS as VIEWS

import softcache

PACKAGE, TESTS = Path(softcache.__file__).parent, Path(__file__).parents[1]
GUARDS = [*WRITING, *READING, *STORED, *VIEWS]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: f"{g.file}: {g.source.strip()[:50]}")
def test_the_list_is_up_to_date(guard: Guard) -> None:
    text = (PACKAGE / guard.file).read_text()
    assert text.count(guard.source) == 1
    compile(text.replace(guard.source, guard.mutant), guard.file, "exec")
    assert (TESTS / guard.tests.split()[0]).exists()


def run(folder: Path, guards: Sequence[Guard], tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests with a copy of the package that lacks some guards."""
    shutil.copytree(PACKAGE, folder / "softcache", ignore=shutil.ignore_patterns("__pycache__"))
    for guard in guards:
        path = folder / "softcache" / guard.file
        path.write_text(path.read_text().replace(guard.source, guard.mutant))
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "60", f"--basetemp={folder}/tmp"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *shlex.split(tests)]
    return subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)


def test_mutants(tmp_path: Path, many: Callable[[int, int], int]) -> None:
    """Each is killed; with `--long`, every test that kills one passes with the package as it is."""
    chosen = random.Random().sample(GUARDS, many(3, len(GUARDS)))
    whole = sorted({guard.tests for guard in GUARDS}) if len(chosen) == len(GUARDS) else []
    runs = [*(([guard], guard.tests, 1) for guard in chosen), *(([], tests, 0) for tests in whole)]

    def attempt(number: int) -> str | None:
        guards, tests, expected = runs[number]
        done = run(tmp_path / str(number), guards, tests)
        shutil.rmtree(tmp_path / str(number))
        said = f"{[*map(tuple, guards)]}: exit {done.returncode} of {tests}\n{done.stdout[-1500:]}{done.stderr[-500:]}"
        failed = done.returncode == 1 and "short test summary" in done.stdout  # not pytest itself, before any test
        return None if (failed if expected else done.returncode == 0) else said

    with ThreadPoolExecutor(2) as pool:
        wrong = [said for said in pool.map(attempt, range(len(runs))) if said]
    print(f"\n{len(chosen)} mutants of {len(GUARDS)} run, {len(wrong)} survived")
    assert not wrong, "\n\n".join(wrong)
