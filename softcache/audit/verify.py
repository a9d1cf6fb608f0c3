"""`softcache verify`: whether a cache is what its commits say, down to every byte."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from softcache.audit.contents import check_commit, check_condemned, check_index, check_shard, check_tables, has_its_keys
from softcache.errors import FormatError, SoftcacheError, UnsupportedVersion
from softcache.read.cache import Cache
from softcache.store.card import MAX_BYTES, render
from softcache.store.checksums import block_checksums, sha256
from softcache.store.commits import Commit, check_parent, latest_number, read_commit
from softcache.store.condemned import read_condemned
from softcache.store.files import Files, connect
from softcache.store.layout import CARD, commit_path, is_collectable
from softcache.store.manifest import LiveShard, Manifest
from softcache.store.plan import Plan, plan_path, read_plan
from softcache.store.receipts import read_receipt, receipt_paths
from softcache.store.shards import CheckedFile, StoredFile, own_checksum_bytes
from softcache.store.state import read_reference
from softcache.store.target_tables import read_tables, tables_paths

LEVELS = ("quick", "full")
# What computing with a forged cache may raise, whose parts do not belong together.
_CONTRADICTIONS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CARD_WAITS = (0, 0.1, 0.4)  # seconds


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and the file."""

    path: str
    what: str


@dataclass(kw_only=True)
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

    `quick` checks the commits, their manifests, indexes and plans, and that every file exists with its size. `full`
    reads every byte: hashes, block checksums, keys, columns, values that no encoder writes, statistics, the index, the
    card, and whether fingerprints and unit keys are those of what they hash.

    Raises IncompleteCache before the first commit, FormatError if there is no cache, UnsupportedVersion for a newer
    format or a target that this version does not know; everything else that is wrong is in the result.

    Examples:
        >>> verification = softcache.verify("runs/digits", level="quick")
        >>> verification.ok, verification.problems
        (True, [])
    """
    if level not in LEVELS:
        raise SoftcacheError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")
    return _Verifier(connect(url), level).run()


class _Verifier:
    def __init__(self, files: Files, level: str) -> None:
        self._files, self._full = files, level == "full"
        self._result = Verification(path=files.url, level=level)
        self._seen: set[str] = set()
        self._plans: dict[str, Plan | None] = {}
        self._condemned: frozenset[str] = frozenset()

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
                self._try(commit_path(number), check_parent, self._files, commit, parent and parent.sha256)
                self._add_all(commit_path(number), check_condemned, commit, parent)
            manifest = self._check_commit(commit)
            parent = commit
        self._result.commit = latest
        self._check_unfinished()
        try:
            cache = Cache(self._files, latest or None)
        except (FormatError, FileNotFoundError) as e:
            if isinstance(e, UnsupportedVersion) or (not self._result.problems and latest == 0):
                raise
            self._add("", str(e))
            return self._result
        live: list[LiveShard] = []
        if manifest is not None:
            live = self._try(cache.commit.manifest.path, lambda shards: list(shards.live()), manifest, default=[])
        self._check_card(cache.commit, live)
        if self._full:
            self._check_contents(cache, live)
        self._forget_what_is_condemned(latest)
        return self._result

    def _forget_what_is_condemned(self, latest: int) -> None:
        """Drop the problems of files that a commit has condemned since: they may be gone, and nothing needs them."""
        newest = self._try("commits", latest_number, self._files, default=latest)
        if self._result.problems and newest > latest:
            commit = self._try(commit_path(newest), read_commit, self._files, newest)
            gone = self._try(commit_path(newest), read_condemned, self._files, commit, default=frozenset())
            self._result.problems = [p for p in self._result.problems if p.path not in gone]

    def _check_commit(self, commit: Commit) -> Manifest | None:
        """Check what a commit names; return its manifest."""
        plan = self._plan(commit.plan)
        manifest = None
        data = self._read_reference(commit.manifest)
        if data is not None:
            manifest = self._try(commit.manifest.path, _open_manifest, data, commit.manifest.path)
        for segment in (*commit.index, *commit.condemned):
            self._read_reference(segment)
        path = commit_path(commit.number)
        condemned = self._try(path, read_condemned, self._files, commit, default=frozenset())
        for one in sorted(condemned - self._condemned):
            if not is_collectable(one):
                self._add(path, f"condemns {one!r:.300}, which no collector may delete")
        self._condemned |= condemned
        for target in commit.targets.values():
            self._check_files(tuple(target.tables.values()))
        if manifest is not None:
            for live in self._try(commit.manifest.path, list, manifest.live()) or []:
                self._check_files(live.shard.files)
                self._check_place(live, plan, commit.manifest.path)
        return manifest

    def _read_reference(self, reference: StoredFile | CheckedFile) -> Any:
        self._check_name(reference.path)
        self._count(reference.path, reference.bytes)
        return self._try(reference.path, read_reference, self._files, reference)

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

    def _check_name(self, path: str) -> None:
        if path in self._condemned:
            self._add(path, "named by a commit although it is condemned")

    def _check_unfinished(self) -> None:
        """Check receipts, and the documents that name tables, but those that garbage collection has taken."""
        documents = self._try("tables", tables_paths, self._files, default={})
        for path in sorted(p for paths in documents.values() for p in paths if p not in self._condemned):
            self._try(path, read_tables, self._files, path)
        receipts = self._try("receipts", receipt_paths, self._files, default={})
        for path in sorted(p for paths in receipts.values() for p in paths if p not in self._condemned):
            receipt = self._try(path, read_receipt, self._files, path)
            if receipt is not None and not any(file.path in self._condemned for file in receipt.shard.files):
                self._check_files(receipt.shard.files)

    def _check_files(self, stored: tuple[CheckedFile, ...]) -> None:
        for file in stored:
            self._check_name(file.path)
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

    def _check_bytes(self, file: CheckedFile) -> None:
        data = self._try(file.path, self._files.read, file.path)
        if data is None:
            return
        blocks = block_checksums(data, own_checksum_bytes(file.path))
        if sha256(data) != file.sha256:
            broken = [i for i, (a, b) in enumerate(zip(blocks, file.blocks, strict=False)) if a != b]
            where = f" (blocks {', '.join(map(str, broken[:5]))})" if broken else ""
            self._add(file.path, f"its sha256 is not the one that was recorded{where}")
        elif tuple(blocks) != file.blocks:
            self._add(file.path, "its block checksums are not those that were recorded")

    def _check_card(self, commit: Commit, live: list[LiveShard]) -> None:
        """Compare the card with a commit. A writer that has just published one needs a moment to write the card."""
        for wait in CARD_WAITS:
            time.sleep(wait)
            if self._try("commits", latest_number, self._files, default=commit.number) != commit.number:
                return  # the card is that of a later commit, or about to be
            card = self._try(CARD, self._files.read, CARD, MAX_BYTES)
            if card is None or card == self._try(CARD, render, card, commit, live, default=card):
                return
        self._add(CARD, "not the card of the newest commit; the next build rewrites it")

    def _check_contents(self, cache: Cache, live: list[LiveShard]) -> None:
        """Check what hashes of whole files cannot show: that keys, shapes, statistics, index and plan agree."""
        broken = {p.path for p in self._result.problems}
        self._add_all(commit_path(cache.commit.number), check_commit, cache, live)
        for name, target in cache.commit.targets.items():
            if not broken & {table.path for table in target.tables.values()}:
                self._add_all(commit_path(cache.commit.number), check_tables, cache, name)
        plan = self._plan(cache.commit.plan)
        checked: set[int] = set()
        for shard in live:
            fragment = None if plan is None else plan.fragments.get(shard.fragment)
            if fragment is None or fragment.rows != shard.shard.rows or broken & {f.path for f in shard.shard.files}:
                continue
            if fragment.number not in checked:
                checked.add(fragment.number)
                if not has_its_keys(fragment):
                    self._add(plan_path(cache.commit.plan), f"fragment {fragment.number}: not its keys hash")
            path = shard.shard.files[0].path
            self._add_all(path, check_shard, self._files, cache, fragment, shard)
        self._add_all("index", check_index, self._files, cache, live)

    def _plan(self, head: str) -> Plan | None:
        if head not in self._plans:
            self._plans[head] = self._try(plan_path(head), read_plan, self._files, head)
        return self._plans[head]

    def _count(self, path: str, size: int) -> None:
        if path not in self._seen:
            self._seen.add(path)
            self._result.files += 1
            self._result.bytes += size

    def _add(self, path: str, what: str) -> None:
        problem = Problem(path, what)
        if problem not in self._result.problems:
            self._result.problems.append(problem)

    def _add_all(self, path: str, check: Callable[..., Iterator[str]], *arguments: Any) -> None:
        """Add everything that a check yields as problems of `path`, and what it raises."""
        for what in self._try(path, lambda: list(check(*arguments)), default=[]):
            self._add(path, what)

    def _try(self, path: str, check: Callable[..., Any], *arguments: Any, default: Any = None) -> Any:
        """Run one check; a failure is a problem of `path`."""
        try:
            return check(*arguments)
        except UnsupportedVersion:
            raise
        except (SoftcacheError, FileNotFoundError) as e:
            self._add(path, "missing" if isinstance(e, FileNotFoundError) else str(e))
        except _CONTRADICTIONS as e:
            self._add(path, f"it contradicts what is said about it: {type(e).__name__}: {e}")
        return default


def _open_manifest(data: Any, path: str) -> Manifest:
    manifest = Manifest(data, path)
    manifest.targets()
    return manifest
