"""Forged caches: one file of a cache changed, and whatever vouches for it signed again."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manifests import with_shards
from mutants import Mutator, write

from softcache.store import arrow, zarr
from softcache.store.checksums import block_checksums, crc32c, sha256
from softcache.store.documents import dump_document, load_document
from softcache.store.layout import CARD, MARKER, hashed_path
from softcache.store.live_shards import LiveShard
from softcache.store.plan import plan_path
from softcache.store.shards import describe_file

KINDS = ("marker", "commits", "receipts", "card", "manifests", "plan", "index", "data")


class Forgery:
    """Mutant number `seed`; `files` are all of the cache's, changed; `said` tells what was done."""

    def __init__(self, pristine: dict[str, bytes], seed: int) -> None:
        self.files = dict(pristine)
        self._mutator = mutator = Mutator(seed)
        self._plans = [p for p in pristine if p.startswith("plan/")]
        self._knows_structure = seed // len(KINDS) % 2 == 0
        kind = KINDS[seed % len(KINDS)]
        if kind == "data":
            kind = mutator.pick.choice(["data/cls@t", "data/feat@t", "data/rows"])
        folder = {"marker": MARKER, "card": CARD}.get(kind, f"{kind}/")
        self.path = mutator.pick.choice(sorted(p for p in pristine if p.startswith(folder)))
        mutator.say(self.path)
        data = self.files[self.path]
        if self.path.startswith("data/"):
            self._forge_shard(data)
        elif self.path == CARD:
            self.files[CARD] = mutator.card(data) if self._knows_structure else mutator.mangled(data)
        elif self.path.endswith(".json"):
            self.files[self.path] = self._document(data)
            sign_commits(self.files, fixed=self.path)
        else:
            self._rename(self.path, mutator.table(data) if self._knows_structure else mutator.mangled(data))

    @property
    def said(self) -> str:
        return self._mutator.said

    def _document(self, data: bytes) -> bytes:
        """Return the changed document, with the right hash at its end."""
        body = load_document(data, self.path)
        if self._knows_structure:
            head = self._mutator.json(body).removesuffix(b"\n}")
        else:
            head = self._mutator.mangled(json.dumps(body, indent=2, sort_keys=True).encode().removesuffix(b"\n}"))
        return head + f',\n  "sha256": "{sha256(head)}"\n}}\n'.encode()

    def _rename(self, old: str, data: bytes) -> None:
        """Put a file that is named by its hash in another's place."""
        folder, digest = old.split("/")[0], sha256(data)
        path = hashed_path(folder, digest)
        self.files[path] = data
        if folder == "plan":
            self._rename_children(old[8:-6], digest)

        def name_it(body: dict[str, Any]) -> None:
            if plan_path(body["plan"]) == old:
                body["plan"] = digest
            for entry in (*body["manifests"].values(), *body["index"]):
                if entry["path"] == old:
                    entry |= {"path": path, "bytes": len(data), "sha256": digest}
                    if "blocks" in entry:
                        entry["blocks"] = block_checksums(data)

        sign_commits(self.files, name_it)

    def _rename_children(self, old: str, digest: str) -> None:
        for path in self._plans:
            batch = arrow.load(self.files[path], path)
            if batch.schema.metadata[b"softcache.parent"].decode() == old:
                metadata = batch.schema.metadata | {b"softcache.parent": digest.encode()}
                self._rename(path, write(dict(zip(batch.schema.names, batch.columns, strict=True)), metadata))

    def _forge_shard(self, data: bytes) -> None:
        if self.path.endswith(".arrow"):
            data = self._mutator.table(data) if self._knows_structure else self._mutator.mangled(data)
        elif self.path.endswith(".json"):
            data = self._mutator.json(json.loads(data)) if self._knows_structure else self._mutator.mangled(data)
        else:
            body = self._mutator.mangled(data[:-4])
            data = body + struct.pack("<I", crc32c(body))
        for path in sorted(p for p in self.files if p.startswith("manifests/")):
            target = arrow.load(self.files[path], path).schema.metadata[b"softcache.target"].decode()
            made = with_shards(self.files[path], target, lambda one: self._with_file(one, data))
            if made != self.files[path]:
                self._rename(path, made)

    def _with_file(self, live: LiveShard, data: bytes) -> LiveShard:
        """The shard, with `data` instead of the file at `self.path`, if it has that."""
        shard = live.shard
        if self.path not in [f.path for f in shard.files]:
            return live
        parts = {f.path: data if f.path == self.path else self.files[f.path] for f in shard.files}
        if self.path.endswith(".arrow"):
            files = (describe_file(f"{self.path[:-70]}{sha256(data)}.arrow", data),)
        else:
            top = self.path.partition(".zarr/")[0]
            listing = zarr.listing({p.removeprefix(f"{top}.zarr/"): sha256(d) for p, d in parts.items()})
            files = tuple(describe_file(p.replace(top, f"{top[:-64]}{sha256(listing)}"), d) for p, d in parts.items())
        self.files |= {f.path: d for f, d in zip(files, parts.values(), strict=True)}
        return replace(live, shard=replace(shard, files=files, columns=self._columns(live, data)))

    def _columns(self, live: LiveShard, data: bytes) -> Any:
        """Where the columns now lie, or, one time in four or where that cannot be told, lay before."""
        if not self.path.endswith(".arrow") or self._mutator.pick.random() < 0.25:
            return live.shard.columns
        try:
            return arrow.locate(data)
        except Exception:  # noqa: BLE001 - what softcache makes of such a file is seen when it reads it
            return live.shard.columns


def sign_commits(
    files: dict[str, bytes], change: Callable[[dict[str, Any]], None] = lambda body: None, fixed: str = ""
) -> None:
    """Change every commit but `fixed`, and make each name the marker and the commit before it."""
    parent = None
    for number, path in enumerate(sorted(p for p in files if p.startswith("commits/")), 1):
        if path != fixed:
            body = load_document(files[path], path)
            change(body)
            body |= {"parent": parent, "marker_sha256": sha256(files[MARKER])}
            files[path] = dump_document(body)
        parent = {"number": number, "sha256": sha256(files[path])}
