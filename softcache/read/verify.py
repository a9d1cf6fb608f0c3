"""Verification: whether a cache is what its commits say, down to every byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from softcache.codecs.statistics import value_statistics
from softcache.errors import FormatError, SoftcacheError, UnsupportedVersion
from softcache.read.cache import Cache
from softcache.store import arrow
from softcache.store.card import render
from softcache.store.checksums import block_checksums, sha256
from softcache.store.commits import Commit, check_parent, latest_number, read_commit
from softcache.store.files import Files, connect
from softcache.store.index import Segment
from softcache.store.keys import keys_digest
from softcache.store.layout import CARD, ROWS, commit_path
from softcache.store.manifest import LiveShard, Manifest
from softcache.store.plan import Plan, read_plan
from softcache.store.receipts import read_receipt, receipt_keys
from softcache.store.shards import StoredFile
from softcache.store.state import read_reference

LEVELS = ("quick", "full")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be, and the file where."""

    path: str
    what: str


@dataclass
class Verification:
    """What was checked, and every problem found."""

    path: str
    level: str
    commit: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self) | {"ok": self.ok}


def verify(url: str | os.PathLike[str], level: str = "full") -> Verification:
    """Check a cache and report every problem.

    `quick` checks the commits, their manifests, indexes and plans, and that every file is there with its size. `full`
    reads every
    byte: hashes, block checksums, keys, shapes, statistics, the index and the card. Raises IncompleteCache before the
        first commit, FormatError if there is no cache; whatever else is wrong is in the result.
    """
    if level not in LEVELS:
        raise SoftcacheError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")
    files = connect(url)
    return _Verifier(files, level).run()


class _Verifier:
    def __init__(self, files: Files, level: str) -> None:
        self._files, self._full = files, level == "full"
        self._result = Verification(files.url, level)
        self._seen: set[str] = set()

    def run(self) -> Verification:
        try:
            latest = latest_number(self._files)
        except FormatError as e:
            self._add("commits", str(e))
            return self._result
        parent: Commit | None = None
        manifest: Manifest | None = None
        for number in range(1, latest + 1):
            commit = self._try(commit_path(number), read_commit, self._files, number)
            if commit is None:
                parent = None
                continue
            if number == 1 or parent is not None:
                self._try(commit_path(number), check_parent, self._files, commit, parent)
            manifest = self._check_commit(commit)
            parent = commit
        self._result.commit = latest
        self._check_receipts()
        try:
            cache = Cache(self._files)
        except (FormatError, FileNotFoundError) as e:
            if isinstance(e, UnsupportedVersion) or (not self._result.problems and latest == 0):
                raise
            self._add("", str(e))
            return self._result
        self._check_card(cache.commit, list(manifest.live()) if manifest is not None else [])
        if self._full and manifest is not None:
            self._check_contents(cache, manifest)
        return self._result

    def _check_commit(self, commit: Commit) -> Manifest | None:
        """Check what a commit names; return its manifest."""
        plan = self._try(f"plan/{commit.plan}.arrow", read_plan, self._files, commit.plan)
        manifest = None
        for reference in (commit.manifest, *commit.index):
            data = self._try(reference.path, read_reference, self._files, reference)
            self._count(reference.path, reference.bytes)
            if data is not None and reference is commit.manifest:
                manifest = self._try(reference.path, _open_manifest, data, reference.path)
        if manifest is not None:
            for live in self._try(commit.manifest.path, list, manifest.live()) or []:
                self._check_files(live.shard.files)
                self._check_place(live, plan, commit.manifest.path)
        return manifest

    def _check_place(self, live: LiveShard, plan: Plan | None, path: str) -> None:
        fragment = None if plan is None else plan.fragments.get(live.fragment)
        if plan is None:
            return
        if fragment is None or (
            fragment.split,
            fragment.first_view,
            fragment.views,
            fragment.rows,
            fragment.keys_sha256,
        ) != (
            live.split,
            live.first_view,
            live.views,
            live.shard.rows,
            live.shard.keys_sha256,
        ):
            self._add(path, f"{live.shard.target}, fragment {live.fragment}: not the fragment that the plan has")

    def _check_receipts(self) -> None:
        for key in sorted(self._try("receipts", receipt_keys, self._files) or ()):
            path = f"receipts/{key}.json"
            receipt = self._try(path, read_receipt, self._files, key)
            if receipt is not None:
                self._check_files(receipt.shard.files)

    def _check_files(self, stored: tuple[StoredFile, ...]) -> None:
        for file in stored:
            if file.path in self._seen:
                continue
            self._count(file.path, file.bytes)
            size = self._try(file.path, self._files.size, file.path, default=-1)
            if size is None:
                self._add(file.path, "missing")
            elif size not in (file.bytes, -1):
                self._add(file.path, f"{size:,} bytes; {file.bytes:,} were written")
            elif self._full and size >= 0:
                self._check_bytes(file)

    def _check_bytes(self, file: StoredFile) -> None:
        data = self._try(file.path, self._files.read, file.path)
        if data is None:
            return
        if sha256(data) != file.sha256:
            broken = [i for i, (a, b) in enumerate(zip(block_checksums(data), file.blocks, strict=False)) if a != b]
            where = f" (blocks {', '.join(map(str, broken[:5]))})" if broken else ""
            self._add(file.path, f"its sha256 is not the one that was recorded{where}")
        elif tuple(block_checksums(data)) != file.blocks:
            self._add(file.path, "its block checksums are not those that were recorded")

    def _check_card(self, commit: Commit, live: list[LiveShard]) -> None:
        card = self._try(CARD, self._files.read, CARD)
        if card is not None and card != render(commit, live):
            self._add(CARD, "not the card of the newest commit; the next build rewrites it")

    def _check_contents(self, cache: Cache, manifest: Manifest) -> None:
        """Check what whole-file hashes cannot show: that keys, shapes, statistics, index and plan agree."""
        plan = self._try("plan", read_plan, self._files, cache.commit.plan)
        targets = self._try(cache.commit.manifest.path, manifest.targets)
        if plan is None or targets is None:
            return
        broken = {p.path for p in self._result.problems}
        for live in manifest.live():
            if not broken & {f.path for f in live.shard.files}:
                path = live.shard.files[0].path
                self._try(path, self._check_shard, cache, plan, live)
        self._try("index", self._check_index, cache)

    def _check_shard(self, cache: Cache, plan: Plan, live: LiveShard) -> None:
        fragment = plan.fragments[live.fragment]
        path = live.shard.files[0].path
        if (
            keys_digest(fragment.sample_ids, fragment.first_view, fragment.views, fragment.contents)
            != fragment.keys_sha256
        ):
            self._add(
                f"plan/{plan.head}.arrow", f"fragment {fragment.number}: its keys hash is not that of its samples"
            )
        if path.endswith(".arrow"):
            data = self._files.read(path)
            batch = arrow.load(data, path)
            if arrow.locate(data) != live.shard.columns:
                self._add(path, "its columns do not lie where the manifest says")
            same = batch["sample_id"].equals(fragment.row_ids()) and np.array_equal(batch["view"], fragment.row_views())
            if not same or batch.num_rows != fragment.rows:
                self._add(path, "its sample ids and views are not those of its fragment")
        if live.shard.target == ROWS:
            rows = np.arange(live.first_row, live.first_row + live.shard.rows)
            contents = np.repeat(fragment.contents, fragment.views, axis=0)
            cache.check_contents(fragment.row_ids(), contents, fragment.row_views())
            if not np.array_equal(cache.find(fragment.row_ids(), fragment.row_views()), rows):
                self._add(path, "looking its keys up does not give its rows")
            return
        target = cache[live.shard.target]
        soft = target.read(np.arange(live.first_row, live.first_row + live.shard.rows))
        found = value_statistics(target.codec, soft.columns, soft.mask.numpy())
        if not _close(found, live.shard.statistics):
            self._add(path, f"its values have the statistics {found}; {live.shard.statistics} were recorded")

    def _check_index(self, cache: Cache) -> None:
        segments = [Segment(read_reference(self._files, r), r.path) for r in cache.commit.index]
        rows = np.sort(np.concatenate([s.rows for s in segments]))
        if not np.array_equal(rows, np.arange(cache.commit.rows)):
            self._add("index", "does not hold every row once")
        if any((s.hashes[1:] < s.hashes[:-1]).any() for s in segments):
            self._add("index", "a segment is not sorted")

    def _count(self, path: str, size: int) -> None:
        if path not in self._seen:
            self._seen.add(path)
            self._result.files += 1
            self._result.bytes += size

    def _add(self, path: str, what: str) -> None:
        problem = Problem(path, what)
        if problem not in self._result.problems:
            self._result.problems.append(problem)

    def _try(self, path: str, check: Callable[..., Any], *arguments: Any, default: Any = None) -> Any:
        """Run one check; a failure is a problem of `path`."""
        try:
            return check(*arguments)
        except UnsupportedVersion:
            raise
        except (SoftcacheError, FileNotFoundError) as e:
            self._add(path, "missing" if isinstance(e, FileNotFoundError) else str(e))
            return default


def _open_manifest(data: Any, path: str) -> Manifest:
    manifest = Manifest(data, path)
    manifest.targets()
    return manifest


def _close(found: dict[str, Any], recorded: dict[str, Any]) -> bool:
    if found.keys() != recorded.keys():
        return False
    return all(
        (a is None and b is None) or (a is not None and b is not None and bool(np.isclose(a, b, rtol=1e-9, atol=1e-12)))
        for a, b in ((found[k], recorded[k]) for k in found)
    )
