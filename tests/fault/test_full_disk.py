"""A disk that is really full at any write: the error says what was needed, and the build goes on once there is room."""

import errno
import gc
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Workshop
from interrupted import Whole, check_commit, look, resume, tree

import softcache
from softcache.errors import StorageError
from softcache.store.files.local import LocalFiles
from softcache.store.layout import TEMPORARY

PAGE, FRAGMENT = 4096, 1000
Many = Callable[[int, int], int]
Write = tuple[str, int]
INSIDE = "SOFTCACHE_TEST_NAMESPACE"


class Disk:
    """A small file system, and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.cache, self._ballast, self._inodes = folder / "cache", folder / "ballast", folder / "inodes"
        self._ballast.touch()
        self._inodes.mkdir()

    def free(self) -> int:
        status = os.statvfs(self._ballast)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int) -> None:
        """Leave this many bytes, rounded down to pages."""
        with open(self._ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free() - leave // PAGE * PAGE)
        assert self.free() == leave // PAGE * PAGE

    def use_up_inodes(self) -> None:
        try:
            for number in range(1_000_000):
                (self._inodes / str(number)).touch()
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise

    def clear(self) -> None:
        self._ballast.write_bytes(b"")
        for file in self._inodes.iterdir():
            file.unlink()


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=1500", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        try_in_namespace(request, mounted.stderr.strip())
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def try_in_namespace(request: pytest.FixtureRequest, why: str) -> None:
    """Run the test once more, where this user may mount; skip it here in any case but failure."""
    if INSIDE not in os.environ and shutil.which("unshare"):
        pytest_again = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", request.node.nodeid]
        long = ["--long"] if request.config.getoption("--long") else []
        inside = subprocess.run(
            ["unshare", "--map-root-user", "--mount", *pytest_again, *long],
            capture_output=True,
            text=True,
            cwd=request.config.rootpath,
            env=os.environ | {INSIDE: "1"},
        )
        if "1 passed" in inside.stdout:
            pytest.skip("passed, in a user namespace")
        if "1 failed" in inside.stdout:
            pytest.fail(inside.stdout)
        why = inside.stderr.strip() or why
    pytest.skip(f"no file system can be mounted: {why}")


@pytest.fixture
def prepared(workshop: Workshop, disk: Disk) -> Workshop:
    """Large fragments, so that many files take several pages."""
    workshop.cache = disk.cache
    workshop.recipe["build"] = {"batch_size": FRAGMENT, "fragment_rows": FRAGMENT}
    workshop.samples(FRAGMENT)
    return workshop


def before_writes(monkeypatch: pytest.MonkeyPatch, act: Callable[[str, int], object]) -> None:
    """Have `act` called with the path and size of every file just before it is written."""
    for name in ("create", "replace"):
        real = getattr(LocalFiles, name)

        def write(self: LocalFiles, path: str, data: bytes, real: Callable[..., Any] = real) -> Any:
            act(path, len(data))
            return real(self, path, data)

        monkeypatch.setattr(LocalFiles, name, write)


def kind(path: str) -> str:
    return "/".join(path.split("/")[:2]) if path.startswith("data/") else path.split("/")[0]


def trials(writes: list[Write]) -> list[tuple[int, str]]:
    """Which write, and what is left for it; of each kind of file one comes before the second of any other."""
    ways = [(n, how) for n, (_, size) in enumerate(writes) for how in ("nothing", "no inode", "half")]
    ways = [(n, how) for n, how in ways if how != "half" or writes[n][1] // 2 >= PAGE]
    random.Random(0).shuffle(ways)
    met: Counter[str] = Counter()
    ranked = [(met.update([kind(writes[n][0])]), met[kind(writes[n][0])], n, how) for n, how in ways]
    return [(n, how) for _, _, n, how in sorted(ranked, key=lambda r: r[1])]


@pytest.mark.parametrize("commit", ["first", "second"])
def test_full_at_a_write(
    commit: str, prepared: Workshop, disk: Disk, many: Many, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    if commit == "second":
        prepared.build()
        shutil.copytree(prepared.cache, ready)
        prepared.samples(3 * FRAGMENT)

    def begin() -> None:
        shutil.rmtree(prepared.cache, ignore_errors=True)
        gc.collect()  # what is still mapped is not yet free
        if ready.exists():
            shutil.copytree(ready, prepared.cache)

    writes: list[Write] = []
    with monkeypatch.context() as recording:
        before_writes(recording, lambda path, size: writes.append((path, size)))
        prepared.build()
    whole = look(prepared.cache, [])
    tried = trials(writes)[: many(len({kind(path) for path, _ in writes}), 10_000)]
    for number, how in tried:
        begin()
        with monkeypatch.context() as filling:
            fail_at(filling, prepared, disk, whole, writes, number, how)
        disk.clear()
        resume(prepared, whole)
    kinds = Counter(kind(writes[n][0]) for n, _ in tried)
    ways = Counter(how for _, how in tried)
    print(
        f"\nfull disk: {len(tried)} times at {len(writes)} writes {dict(kinds)}, left {dict(ways)}; all equal after it"
    )
    assert kinds.keys() == {kind(path) for path, _ in writes}


def fail_at(
    patch: pytest.MonkeyPatch, workshop: Workshop, disk: Disk, whole: Whole, writes: list[Write], number: int, how: str
) -> None:
    """Fill the disk right before a write, and look at the error and at what is left of the cache."""
    path, size = writes[number]
    begun: list[str] = []

    def act(written: str, bytes_: int) -> None:
        if len(begun) == number:
            assert kind(written) == kind(path)
            if how == "no inode":
                disk.use_up_inodes()
            else:
                disk.fill(bytes_ // 2 if how == "half" else 0)
        begun.append(written)

    before_writes(patch, act)
    with pytest.raises(StorageError) as raised:
        workshop.build()
    said = str(raised.value)
    assert f"/{begun[number]}: {os.strerror(errno.ENOSPC)}; {size:,} bytes" in said, said
    assert [p for p in tree(workshop.cache) if TEMPORARY in p] == []
    seen = check_commit(workshop.cache, whole.reads)
    assert seen == len(whole.reads) - (number < len(writes) - 1), "only the card comes after the commit"
    with pytest.raises(StorageError):
        workshop.build()


def test_too_small_from_the_start(prepared: Workshop, disk: Disk) -> None:
    prepared.build()
    before = look(prepared.cache, [])
    prepared.samples(3 * FRAGMENT)
    prepared.calls()
    disk.fill(64 * PAGE)
    with pytest.raises(StorageError) as raised:
        prepared.build()
    said = re.search(r"needs about ([\d,]+) bytes and ([\d,]+) are free", str(raised.value))
    assert said is not None, raised.value
    needed, free = (int(number.replace(",", "")) for number in said.groups())
    assert needed > free
    assert free == disk.free()
    assert prepared.calls() == 0
    assert check_commit(prepared.cache, before.reads) == 1
    disk.clear()
    prepared.build()
    added = sum(map(len, tree(prepared.cache).values())) - sum(map(len, before.files.values()))
    print(f"\nfull disk: {needed:,} bytes were said to be needed, {added:,} were written")


def test_a_full_folder_for_temporary_files(
    prepared: Workshop, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes of samples are held in a mapped file there: a page without a disk behind it would end the process."""
    prepared.cache = tmp_path / "cache"
    prepared.samples(3 * FRAGMENT)
    temporary = disk.cache.parent
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for leave in (0, 32 * FRAGMENT, 4 * 32 * FRAGMENT):
        disk.fill(leave)
        with pytest.raises(StorageError, match=f"{temporary}: {os.strerror(errno.ENOSPC)}.* need 96,000 bytes"):
            prepared.build()
        assert not prepared.cache.exists()
    disk.clear()
    prepared.build()
    assert softcache.verify(prepared.cache).ok
