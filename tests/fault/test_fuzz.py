"""Caches that a stranger made: each is read or refused, with a SoftcacheError, within 2 s and 512 MB.

`pytest tests/fault/test_fuzz.py --seed N` tries mutant N alone.
"""

import faulthandler
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workshop
from forgery import KINDS, Forgery, sign_commits

import softcache
from softcache.errors import SoftcacheError
from softcache.store.documents import dump_document, load_document
from softcache.store.files import connect
from softcache.store.gc import find_garbage
from softcache.store.layout import MARKER

SECONDS, MEGABYTES = 2.0, 512
KINDS_OF_IDS = ("numbers", "strings")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two caches of three fragments in two commits, a row without an answer; the same bytes in every run."""
    folder = tmp_path_factory.mktemp("fuzz")
    for kind, ids in zip(KINDS_OF_IDS, (range(30), [f"sample {i}" for i in range(30)]), strict=True):
        (folder / kind).mkdir()
        workshop = Workshop(folder / kind)
        workshop.samples(30, ids, change=lambda x: x.__setitem__(3, np.nan))
        for limit in (10, None):
            workshop.build("build.on_bad_sample=skip", limit=limit)
        files = contents(workshop.cache)
        marker = load_document(files[MARKER], MARKER)
        files[MARKER] = dump_document(marker | {"cache_id": "1"})
        sign_commits(files, lambda body: body.update(transaction="2", created="2000-01-01T00:00:00+00:00"))
        write(workshop.cache, files)
    return folder


def contents(cache: Path) -> dict[str, bytes]:
    return {p.relative_to(cache).as_posix(): p.read_bytes() for p in sorted(cache.rglob("*")) if p.is_file()}


def use(path: Path, ids: Any) -> Iterator[str]:
    """Do all that reads a cache; yield what fails with anything but a SoftcacheError."""
    opened: list[softcache.Cache] = []
    yield from attempt("open", lambda: opened.append(softcache.open(path)))
    for cache in opened:
        for name in cache.targets:
            yield from use_target(cache, name, ids)
        yield from attempt("rows", cache.rows.table)
    yield from attempt("verify", lambda: softcache.verify(path, "full"))
    yield from attempt("find_garbage", lambda: find_garbage(connect(path)))


def use_target(cache: softcache.Cache, name: str, ids: Any) -> Iterator[str]:
    yield from attempt(f"lookup {name}", lambda: cache[name].lookup(ids))
    yield from attempt(f"read {name}", lambda: cache[name].read(slice(None)).ids)
    yield from attempt(f"table {name}", lambda: cache[name].table())


def attempt(what: str, act: Callable[[], Any]) -> Iterator[str]:
    begin = time.process_time()
    said = ""
    try:
        done = act()
        said = str(done.problems) if what == "verify" else ""
    except SoftcacheError as e:
        said = "".join(traceback.format_exception(e))
    except Exception:  # noqa: BLE001 - whatever it is, it is what this test looks for
        yield f"{what}: {traceback.format_exc()}"
    if re.search("alloc of size|MemoryError|allocate memory", said):
        yield f"{what}: more than {MEGABYTES} MB of memory: {said}"
    if (spent := time.process_time() - begin) > SECONDS:
        yield f"{what}: {spent:.1f} s"


def work(caches: Path, seeds: range) -> None:
    """In a child: try mutants, a line [seed, mutant, failures] before each (no failures yet) and after."""
    warnings.simplefilter("error")
    faulthandler.enable()
    with tempfile.TemporaryDirectory(dir=caches) as scratch:
        pristine = {kind: contents(caches / kind / "cache") for kind in KINDS_OF_IDS}
        for kind, files in pristine.items():
            write(Path(scratch, kind), files)
        ids = {kind: softcache.open(Path(scratch, kind))["cls"].read(slice(None)).ids for kind in KINDS_OF_IDS}
        for seed in seeds:
            kind = KINDS_OF_IDS[seed // len(KINDS) // 2 % 2]
            path, files = Path(scratch, kind), pristine[kind]
            forged = Forgery(files, seed)
            print(json.dumps([seed, forged.said, None]), flush=True)
            write(path, {name: data for name, data in forged.files.items() if data != files.get(name)})
            limit_memory(MEGABYTES)
            signal.alarm(60)
            failures = list(use(path, ids[kind]))
            signal.alarm(0)
            limit_memory(None)
            print(json.dumps([seed, forged.said, failures]), flush=True)
            for name in forged.files.keys() - files.keys():
                (path / name).unlink()
            write(path, {name: files[name] for name in files if forged.files[name] != files[name]})


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files as new ones, since the old may still be mapped."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def limit_memory(megabytes: int | None) -> None:
    """Allow so much more than there is now; address space without memory behind it does not count."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (hard if megabytes is None else now + megabytes * 2**20, hard))


def failures(caches: Path, seeds: range) -> Iterator[str]:
    """Try mutants in a child; where one kills it, go on with the next in another."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    while seeds:
        command = [sys.executable, __file__, str(caches), *map(str, (seeds.start, seeds.stop, seeds.step))]
        child = subprocess.run(command, capture_output=True, text=True, env=environment)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        assert lines, child.stderr
        yield from (f"--seed {seed}: {mutant}\n{what}" for seed, mutant, found in lines for what in found or ())
        seed, mutant, _ = lines[-1]
        if child.returncode:
            yield f"--seed {seed}: {mutant}\nexit {child.returncode}: {child.stderr[-3000:]}"
        seeds = seeds[seeds.index(seed) + 1 :]


def test_mutants(caches: Path, many: Callable[[int, int], int], pytestconfig: pytest.Config) -> None:
    only, count = pytestconfig.getoption("--seed"), many(400, 10_000)
    halves = [range(count // 2), range(count // 2, count)] if only is None else [range(only, only + 1)]
    with ThreadPoolExecutor(len(halves)) as pool:
        found = list(chain(*pool.map(lambda seeds: list(failures(caches, seeds)), halves)))
    print(f"\n{sum(map(len, halves)):,} mutants tried, {len(found)} failures")
    assert not found, "\n\n".join(found)


if __name__ == "__main__":
    work(Path(sys.argv[1]), range(*map(int, sys.argv[2:])))
