"""The plan: which samples each fragment covers (docs/format.md, section 5)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import FormatError, IntegrityError
from softcache.store import arrow
from softcache.store.checksums import canonical_json, sha256
from softcache.store.files import Files
from softcache.store.keys import keys_digest
from softcache.store.layout import hash_and_epoch, hashed_path
from softcache.store.references import read_reference
from softcache.store.shards import StoredFile
from softcache.store.writer import Writer


def _large_list(item: pa.DataType) -> pa.DataType:
    return pa.large_list(pa.field("item", item, nullable=False))


_TYPES = {
    "fragment": (pa.int64(),),
    "split": (pa.string(),),
    "first_view": (pa.int32(),),
    "views": (pa.int32(),),
    "keys_sha256": (pa.binary(32),),
    "sample_id": (_large_list(pa.int64()), _large_list(pa.string())),
    "content": (_large_list(pa.binary(32)),),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Fragment:
    """A fixed range of samples x a range of views: the unit of work, of retry and of receipt.

    `sample_ids` is an int64 or string Arrow array [samples]; `contents` are the content hashes, uint8 [samples, 32].
    """

    number: int
    split: str
    first_view: int
    views: int
    sample_ids: pa.Array
    contents: Array
    keys_sha256: str

    @classmethod
    def of(
        cls,
        number: int,
        split: str,
        sample_ids: pa.Array,
        contents: Array,
        *,
        first_view: int = 0,
        views: int = 1,
    ) -> Fragment:
        """Return a fragment, and compute its keys hash."""
        digest = keys_digest(sample_ids, first_view, views, contents)
        return cls(
            number=number,
            split=split,
            first_view=first_view,
            views=views,
            sample_ids=sample_ids,
            contents=contents,
            keys_sha256=digest,
        )

    @property
    def rows(self) -> int:
        """The number of rows: samples x views."""
        return len(self.sample_ids) * self.views

    def row_ids(self) -> pa.Array:
        """Return the sample id of each row, an Arrow array [rows]."""
        return self.sample_ids.take(pa.array(np.repeat(np.arange(len(self.sample_ids)), self.views)))

    def row_views(self) -> Array:
        """Return the view of each row, int32 [rows]."""
        views = np.arange(self.first_view, self.first_view + self.views, dtype=np.int32)
        return np.tile(views, len(self.sample_ids))


@dataclass(frozen=True, eq=False)
class Plan:
    """The fragments in force, by number, and the columns that their content hashes cover.

    `head` is the name of the plan's file without its suffix.
    """

    head: str | None
    content: tuple[str, ...]
    fragments: dict[int, Fragment]

    @property
    def id_type(self) -> pa.DataType | None:
        """The Arrow type of the sample ids, None while there are none."""
        return next((f.sample_ids.type for f in self.fragments.values()), None)


@dataclass(frozen=True, eq=False)
class PlanFile:
    """One plan file: the plan that it extends, the content columns, and its own fragments."""

    parent: str | None
    content: tuple[str, ...]
    fragments: list[Fragment]


def empty_plan(content: Sequence[str]) -> Plan:
    """Return the plan of a cache without fragments."""
    return Plan(None, tuple(content), {})


def extend_plan(out: Writer, plan: Plan, fragments: Sequence[Fragment]) -> Plan:
    """Write a plan that extends `plan` by `fragments`; return the plan that is then in force.

    The fragments are new, or replace those of the same number, whose samples have changed.
    """
    data = _dump(fragments, plan.head, plan.content)
    head = out.named(sha256(data))
    out.files.put(plan_path(head), data)
    return Plan(head, plan.content, plan.fragments | {f.number: f for f in fragments})


def read_plan(files: Files, head: str) -> Plan:
    """Read a plan and its ancestors. Raises IntegrityError or FormatError, which name the file."""
    chain = read_plan_chain(files, head)
    fragments: dict[int, Fragment] = {}
    for one in chain.values():
        fragments = {f.number: f for f in one.fragments} | fragments
    return Plan(head, chain[head].content, dict(sorted(fragments.items())))


def read_plan_chain(files: Files, head: str) -> dict[str, PlanFile]:
    """Return the files of a plan and its ancestors by name, newest first. Raises what `read_plan` raises."""
    chain: dict[str, PlanFile] = {}
    at: str | None = head
    while at is not None:
        try:
            chain[at] = _read_one(files, at)
        except FileNotFoundError as e:
            raise IntegrityError(
                f"{files.url}/{plan_path(at)}: missing; a commit or another plan needs it: restore the file"
            ) from e
        at = chain[at].parent
    return chain


def plan_path(head: str) -> str:
    """Return the path of the plan with a name."""
    return hashed_path("plan", head)


def extensions(files: Files, parent: str | None, condemned: Collection[str]) -> list[str]:
    """Return the names of the plans on disk that extend `parent`; an unfinished build leaves one behind.

    Those that garbage collection has `condemned` do not count.
    """
    found = []
    for path in sorted(path for path, _, _ in files.walk("plan")):
        head = path.rsplit("/", 1)[-1].removesuffix(".arrow")
        if path in condemned or path != plan_path(head) or hash_and_epoch(f"{head}.arrow") is None:
            continue
        try:
            extends = _read_one(files, head).parent == parent
        except FileNotFoundError:  # condemned since
            continue
        if extends:
            found.append(head)
    return found


def _dump(fragments: Sequence[Fragment], parent: str | None, content: Sequence[str]) -> memoryview:
    ids = pa.concat_arrays([f.sample_ids for f in fragments])
    contents = np.concatenate([f.contents for f in fragments])
    lengths = [len(f.sample_ids) for f in fragments]
    digest = pa.binary(32)
    columns = {
        "fragment": pa.array([f.number for f in fragments], pa.int64()),
        "split": pa.array([f.split for f in fragments], pa.string()),
        "first_view": pa.array([f.first_view for f in fragments], pa.int32()),
        "views": pa.array([f.views for f in fragments], pa.int32()),
        "keys_sha256": pa.array([bytes.fromhex(f.keys_sha256) for f in fragments], digest),
        "sample_id": arrow.list_array(ids, lengths, ids.type),
        "content": arrow.list_array(
            pa.FixedSizeBinaryArray.from_buffers(digest, len(contents), [None, pa.py_buffer(contents)]),
            lengths,
            digest,
        ),
    }
    metadata = {"softcache.parent": parent or "", "softcache.content": canonical_json(list(content)).decode()}
    return arrow.dump(columns, metadata)


def _read_one(files: Files, head: str) -> PlanFile:
    path = plan_path(head)
    where, named = f"{files.url}/{path}", hash_and_epoch(f"{head}.arrow")
    if named is None:
        raise FormatError(f"{where}: not the name of a plan")
    size = files.size(path)
    if size is None:
        raise FileNotFoundError(path)
    data = read_reference(files, StoredFile(path, size, named[0]))
    batch = arrow.load(data, where)
    types = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    if any(types.get(name) not in kinds for name, kinds in _TYPES.items()):
        raise FormatError(f"{where}: not a plan: its columns are {batch.schema.names}")
    try:
        metadata = {k.decode(): v.decode() for k, v in batch.schema.metadata.items()}
        content = tuple(str(c) for c in json.loads(metadata["softcache.content"]))
        fragments = [_fragment(batch, i) for i in range(batch.num_rows)]
        return PlanFile(metadata["softcache.parent"] or None, content, fragments)
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError, pa.ArrowException) as e:
        raise FormatError(f"{where}: not a plan: {e!r}") from e


def _fragment(batch: pa.RecordBatch, i: int) -> Fragment:
    contents = batch["content"][i].values
    start = contents.offset * 32
    raw = np.frombuffer(contents.buffers()[1], np.uint8)[start : start + 32 * len(contents)]
    first_view, views = batch["first_view"][i].as_py(), batch["views"][i].as_py()
    if not len(contents) or len(contents) != len(batch["sample_id"][i].values) or first_view < 0 or views < 1:
        raise ValueError(f"fragment {i} has no rows, or not exactly one content hash per sample, or views out of range")
    if first_view + views > 2**31:
        raise ValueError(f"fragment {i} has views beyond int32")
    return Fragment(
        number=batch["fragment"][i].as_py(),
        split=batch["split"][i].as_py(),
        first_view=batch["first_view"][i].as_py(),
        views=batch["views"][i].as_py(),
        sample_ids=batch["sample_id"][i].values,
        contents=raw.reshape(-1, 32),
        keys_sha256=batch["keys_sha256"][i].as_py().hex(),
    )
