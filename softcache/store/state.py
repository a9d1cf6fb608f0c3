"""The state that a commit publishes: marker, commit and manifests, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator

from softcache.errors import FormatError, IncompleteCache, IntegrityError
from softcache.once import once
from softcache.store.checksums import sha256
from softcache.store.commits import Commit, check_parent, latest_number, read_commit
from softcache.store.documents import MAX_BYTES
from softcache.store.files import Files
from softcache.store.layout import MARKER, ROWS, commit_path
from softcache.store.live_shards import LiveShard, TargetShards
from softcache.store.manifest import CommittedTarget, Manifest, check_places, check_rows
from softcache.store.marker import require_marker
from softcache.store.receipts import receipt_paths
from softcache.store.references import read_reference
from softcache.store.shards import StoredFile


class State:
    """One commit of a cache. The manifest of a target is read when it is first asked for.

    What is asked of a target raises IntegrityError if its manifest has changed, FormatError if it contradicts itself or
    that of `rows`.
    """

    def __init__(self, files: Files, commit: Commit) -> None:
        self.commit, self.files = commit, files
        self._manifests: dict[str, Manifest] = {}

    @once
    def rows(self) -> TargetShards:
        """The shards of `rows`."""
        rows, where = self.manifest(ROWS).shards(), self._where(ROWS)
        check_rows(rows, where)
        if rows.end != self.commit.rows:
            raise FormatError(f"{where}: {rows.end:,} rows; commit {self.commit.number} says {self.commit.rows:,}")
        return rows

    def shards(self, target: str) -> TargetShards:
        """Return the shards of a target."""
        if target == ROWS:
            return self.rows
        shards = self.manifest(target).shards()
        check_places(shards, self.rows, self._where(target))
        return shards

    def committed(self, target: str) -> CommittedTarget:
        """Return what the commit says about a target, which is not `rows`."""
        return self.manifest(target).committed()

    def live(self) -> Iterator[LiveShard]:
        """Yield every live shard, target by target."""
        for name in self.commit.manifests:
            yield from self.manifest(name).live()

    def manifest(self, target: str) -> Manifest:
        """Return the manifest of a target."""
        if target not in self._manifests:
            self._manifests[target] = read_manifest(self.files, target, self.commit.manifests[target])
        return self._manifests[target]

    def after(self, commit: Commit) -> State:
        """Return the state of another commit, which shares the manifests that have been read already."""
        later, before = State(self.files, commit), self.commit.manifests
        later._manifests = {n: m for n, m in self._manifests.items() if commit.manifests.get(n) == before[n]}
        return later

    def _where(self, target: str) -> str:
        return f"{self.files.url}/{self.commit.manifests[target].path}"


def read_manifest(files: Files, target: str, reference: StoredFile) -> Manifest:
    """Read a manifest that a commit names. Raises IntegrityError or FormatError."""
    return Manifest(read_reference(files, reference), target, f"{files.url}/{reference.path}")


def committed_unit_keys(files: Files) -> set[str]:
    """Return the unit keys of all shards that any commit names."""
    keys: set[str] = set()
    seen: set[str] = set()
    for number in range(1, latest_number(files) + 1):
        for target, manifest in read_commit(files, number).manifests.items():
            if manifest.path not in seen:
                seen.add(manifest.path)
                keys |= read_manifest(files, target, manifest).unit_keys()
    return keys


def read_state(files: Files, number: int | None = None) -> State:
    """Read commit `number`, by default the newest. Its manifests are read when they are asked for.

    Raises FormatError if this is not a cache or has no such commit, IncompleteCache if nothing is committed yet,
    IntegrityError if hashes do not match.
    """
    marker = require_marker(files)
    latest = latest_number(files)
    if latest == 0:
        done = len(receipt_paths(files))
        raise IncompleteCache(
            f"{files.url}: nothing is committed yet ({done:,} shards are done); run the same build again to finish it"
        )
    if number is not None and not 1 <= number <= latest:
        raise FormatError(f"{files.url}: there is no commit {number}; the newest is {latest}")
    commit = read_commit(files, number or latest)
    if commit.marker_sha256 != marker.sha256:
        raise IntegrityError(f"{files.url}/{MARKER}: not the marker that commit {commit.number} was made with")
    if number is None and latest > 1:
        check_parent(files, commit, sha256(files.read(commit_path(latest - 1), MAX_BYTES)))
    return State(files, commit)
