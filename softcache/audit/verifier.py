"""Checking a cache against its commits, down to every byte."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from softcache.audit.contents import (
    check_condemned,
    check_figures,
    check_index,
    check_shard,
    check_splits,
    check_tables,
    has_its_keys,
)
from softcache.audit.verification import Problem, Verification
from softcache.errors import FormatError, SoftcacheError, UnsupportedVersion
from softcache.read.cache import Cache
from softcache.store.card import MAX_BYTES, render
from softcache.store.checksums import block_checksums
from softcache.store.commits import Commit, check_parent, latest_number, read_commit
from softcache.store.condemned import read_condemned
from softcache.store.files import Files
from softcache.store.layout import CARD, MARKER, ROWS, commit_path, is_collectable
from softcache.store.live_shards import LiveShard
from softcache.store.plan import Plan, plan_path, read_plan
from softcache.store.receipts import read_receipt, receipt_paths
from softcache.store.references import read_reference
from softcache.store.shards import CheckedFile, own_checksum_bytes
from softcache.store.state import State
from softcache.store.target_tables import read_tables, tables_paths

# What computing with a forged cache may raise, whose parts do not belong together.
_CONTRADICTIONS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
CARD_WAITS = (0, 0.1, 0.4)  # seconds


class Verifier:
    """One verification, at the level `quick` or `full`."""

    def __init__(self, files: Files, level: str) -> None:
        self._files, self._full = files, level == "full"
        self._result = Verification(path=files.url, level=level)
        self._seen: set[str] = set()
        self._plans: dict[str, Plan | None] = {}
        self._condemned: frozenset[str] = frozenset()
        self._states: dict[int, State] = {}
        self._checked: set[tuple[str, str, str]] = set()
        self._named: dict[str, list[str]] = {}
        self._has_grown = False

    def run(self) -> Verification:
        """Check everything; return what was found."""
        try:
            latest = latest_number(self._files)
        except FormatError as e:
            self._add("commits", str(e))
            return self._result
        parent: Commit | None = None
        for path in (MARKER, CARD):
            self._note_link(path)
        for number in range(1, latest + 1):
            self._note_link(commit_path(number))
            commit = self._try(commit_path(number), read_commit, self._files, number)
            if commit is None:
                parent = None
                continue
            if number == 1 or parent is not None:
                self._try(commit_path(number), check_parent, self._files, commit, parent and parent.sha256)
                self._add_all(commit_path(number), check_condemned, commit, parent)
            self._check_commit(commit)
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
        self._check_card(cache.state)
        if self._full:
            self._check_contents(cache)
        self._forget_what_is_condemned(latest)
        return self._result

    def _forget_what_is_condemned(self, latest: int) -> None:
        """Drop the problems of files that a commit has condemned since: they may be gone, and nothing needs them."""
        newest = self._try("commits", latest_number, self._files, default=latest)
        if self._result.problems and newest > latest:
            commit = self._try(commit_path(newest), read_commit, self._files, newest)
            gone = self._try(commit_path(newest), read_condemned, self._files, commit, default=frozenset())
            self._result.problems = [p for p in self._result.problems if p.path not in gone]

    def _check_commit(self, commit: Commit) -> None:
        """Check what a commit names."""
        for part in (*commit.index, *commit.condemned):
            self._check_name(part.path)
            self._count(part.path, part.bytes)
            self._try(part.path, read_reference, self._files, part)
        path = commit_path(commit.number)
        condemned = self._try(path, read_condemned, self._files, commit, default=frozenset())
        for one in sorted(condemned - self._condemned):
            if not is_collectable(one):
                self._add(path, f"condemns {one!r:.300}, which no collector may delete")
        self._has_grown = bool(condemned - self._condemned)
        self._condemned |= condemned
        self._states[commit.number] = state = self._state_of(commit)
        rows = self._try(commit.manifests[ROWS].path, lambda: state.rows)
        for name, manifest in commit.manifests.items():
            self._check_name(manifest.path)
            self._count(manifest.path, manifest.bytes)
            if rows is None or self._try(manifest.path, state.shards, name) is not None:
                self._check_target(state, name, manifest.path)

    def _state_of(self, commit: Commit) -> State:
        """Return the state of a commit. What it shares with the commit before is not read again."""
        before = self._states.pop(commit.number - 1, None)
        return State(self._files, commit) if before is None else before.after(commit)

    def _check_target(self, state: State, name: str, path: str) -> None:
        """Check a target of a commit, as far as it is not that of the commit before."""
        plan, commit = self._plan(state.commit.plan), state.commit
        checked = (path, commit.manifests[ROWS].path, commit.plan)
        if checked in self._checked:
            for named in self._named.get(path, ()) if self._has_grown else ():
                self._check_name(named)
            return
        self._checked.add(checked)
        stored: list[CheckedFile] = []
        if name != ROWS and (target := self._try(path, state.committed, name)) is not None:
            stored += target.tables.values()
        for live in self._try(path, lambda: list(state.manifest(name).live()), default=[]):
            stored += live.shard.files
            if plan is not None:
                self._check_place(live, plan, path)
        self._check_files(stored)
        self._named[path] = [file.path for file in stored]

    def _check_place(self, live: LiveShard, plan: Plan, path: str) -> None:
        fragment = plan.fragments.get(live.fragment)
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

    def _check_files(self, stored: Iterable[CheckedFile]) -> None:
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
        found = self._try(file.path, self._digests, file)
        if found is None:
            return
        digest, blocks = found
        if digest != file.sha256:
            broken = [i for i, (a, b) in enumerate(zip(blocks, file.blocks, strict=False)) if a != b]
            where = f" (blocks {', '.join(map(str, broken[:5]))})" if broken else ""
            self._add(file.path, f"its sha256 is not the one that was recorded{where}")
        elif tuple(blocks) != file.blocks:
            self._add(file.path, "its block checksums are not those that were recorded")

    def _digests(self, file: CheckedFile) -> tuple[str, list[int]]:
        """Return the SHA-256 and the block checksums of a file as it is stored, also if there is a local copy."""
        digest, blocks, begin = hashlib.sha256(), list[int](), 0
        covered = file.bytes - own_checksum_bytes(file.path)
        for part in self._files.parts(file.path):
            digest.update(part)
            blocks += block_checksums(part, min(max(begin + len(part) - covered, 0), len(part)))
            begin += len(part)
        return digest.hexdigest(), blocks

    def _check_card(self, state: State) -> None:
        """Compare the card with a commit. A writer that has just published one needs a moment to write the card."""
        if {manifest.path for manifest in state.commit.manifests.values()} & {p.path for p in self._result.problems}:
            return  # what the card should be cannot be told
        for wait in CARD_WAITS:
            time.sleep(wait)
            if self._try("commits", latest_number, self._files, default=state.commit.number) != state.commit.number:
                return  # the card is that of a later commit, or about to be
            card = self._try(CARD, self._files.read, CARD, MAX_BYTES)
            if card is None or card == self._try(CARD, render, card, state, default=card):
                return
        self._add(CARD, "not the card of the newest commit; the next build rewrites it")

    def _check_contents(self, cache: Cache) -> None:
        """Check what hashes of whole files cannot show: that keys, shapes, statistics, index and plan agree."""
        commit = cache.commit
        broken = {p.path for p in self._result.problems}
        rows = self._try(commit.manifests[ROWS].path, list, cache.state.manifest(ROWS).live(), default=[])
        self._add_all(commit_path(commit.number), check_splits, cache, rows)
        self._check_shards(cache, rows, broken)
        for name in commit.targets:
            path = commit.manifests[name].path
            if path in broken or self._try(path, cache.__getitem__, name) is None:
                continue
            live = list(cache.state.manifest(name).live())
            self._add_all(path, check_figures, cache, name, live)
            if not broken & {table.path for table in cache.committed(name).tables.values()}:
                self._add_all(path, check_tables, cache, name)
            self._check_shards(cache, live, broken)
        self._add_all("index", check_index, self._files, cache, rows)

    def _check_shards(self, cache: Cache, live: list[LiveShard], broken: set[str]) -> None:
        """Check what is inside shards whose files are intact."""
        plan = self._plan(cache.commit.plan)
        for shard in live:
            fragment = None if plan is None else plan.fragments.get(shard.fragment)
            if fragment is None or fragment.rows != shard.shard.rows or broken & {f.path for f in shard.shard.files}:
                continue
            if shard.shard.target == ROWS and not has_its_keys(fragment):
                self._add(plan_path(cache.commit.plan), f"fragment {fragment.number}: not its keys hash")
            path = shard.shard.files[0].path
            self._add_all(path, check_shard, self._files, cache, fragment, shard)

    def _plan(self, head: str) -> Plan | None:
        if head not in self._plans:
            self._note_link(plan_path(head))
            self._plans[head] = self._try(plan_path(head), read_plan, self._files, head)
        return self._plans[head]

    def _count(self, path: str, size: int) -> None:
        if path not in self._seen:
            self._seen.add(path)
            self._result.files += 1
            self._result.bytes += size
            self._note_link(path)

    def _note_link(self, path: str) -> None:
        if self._files.is_link(path):
            self._result.links.append(path)

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
        except (SoftcacheError, FileNotFoundError) as e:
            self._add(path, "missing" if isinstance(e, FileNotFoundError) else str(e))
        except _CONTRADICTIONS as e:
            self._add(path, f"it contradicts what is said about it: {type(e).__name__}: {e}")
        return default
