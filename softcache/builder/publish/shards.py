"""Writing one unit: its shard, then its receipt."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from softcache.builder.answer.answers import Answers
from softcache.builder.answer.jobs import Job
from softcache.builder.prepare.targets import rows_fingerprint
from softcache.builder.prepare.units import Unit
from softcache.builder.prepare.view_records import RecordedViews, read_recorded
from softcache.codecs.fidelity import merge_errors
from softcache.codecs.statistics import value_statistics
from softcache.errors import CommitConflict, IntegrityError, TransferSetError, name_some
from softcache.store import arrow
from softcache.store.about import about_rows, about_target, arrow_metadata
from softcache.store.buffers import ListColumn
from softcache.store.checksums import canonical_json
from softcache.store.declarations import RowsDeclaration
from softcache.store.layout import ROWS
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt, write_receipt
from softcache.store.shards import Shard, ShardPlace, put_shard, write_shard
from softcache.store.writer import Writer
from softcache.transfer.libraries import versions


def write_target(out: Writer, unit: Unit, job: Job, answers: Answers) -> Receipt:
    """Write a target's shard for a fragment, then its receipt; return the receipt in force."""
    target, fragment = answers.target, unit.fragment
    valid = np.ones(fragment.rows, np.bool_)
    valid[list(answers.bad)] = False
    ids, views = fragment.row_ids(), fragment.row_views()
    stored, buffers = write_shard(
        out,
        target.format,
        ShardPlace(target.name, fragment.split, fragment.number),
        answers.columns(),
        valid,
        ids,
        views,
        about_target(target.name, target.fingerprint, target.declaration),
        {column.name: column.missing for column in target.codec.columns},
    )
    statistics = value_statistics(target.codec, answers.encoded(), valid)
    if answers.errors:
        statistics["errors"] = merge_errors(answers.errors).to_json()
    shard = Shard(
        target=target.name,
        unit_key=unit.key,
        keys_sha256=fragment.keys_sha256,
        rows=fragment.rows,
        files=stored,
        columns=buffers,
        statistics=statistics,
    )
    receipt = Receipt(
        shard=shard,
        fingerprint=target.fingerprint,
        declaration=target.declaration,
        skipped=[(job.ids([row])[0], int(views[row]), reason) for row, reason in sorted(answers.bad.items())],
        versions=versions(target.libraries),
        epoch=out.epoch,
    )
    return _record(out, receipt)


def write_rows(
    out: Writer, unit: Unit, kept: pa.Table, declaration: RowsDeclaration, recorded: RecordedViews | None = None
) -> Receipt:
    """Write the `rows` shard of a fragment, then its receipt; `recorded` are its views where samples are augmented.

    Raises TransferSetError for missing kept values, CommitConflict where another builder has recorded other views.
    """
    fragment = unit.fragment
    about = about_rows(rows_fingerprint(declaration))
    data = arrow.dump(rows_arrays(fragment, kept, recorded), arrow_metadata(about))
    shard = Shard(
        target=ROWS,
        unit_key=unit.key,
        keys_sha256=fragment.keys_sha256,
        rows=fragment.rows,
        files=(put_shard(out, ShardPlace(ROWS, fragment.split, fragment.number), data),),
        columns=arrow.locate(data),
        statistics={"valid": fragment.rows},
    )
    receipt = Receipt(
        shard=shard,
        fingerprint=rows_fingerprint(declaration),
        declaration=declaration,
        skipped=[],
        versions=versions() if recorded is None else recorded.versions,
        epoch=out.epoch,
    )
    in_force = _record(out, receipt)
    if recorded is not None and not read_recorded(out.files, in_force.shard, in_force.versions).equals(recorded):
        raise CommitConflict(
            f"{out.files.url}: another builder has recorded other views of fragment {fragment.number} meanwhile; run "
            "the same command again, which takes those"
        )
    return in_force


def _record(out: Writer, receipt: Receipt) -> Receipt:
    """Publish a receipt and return the one in force, whose shard must exist.

    Raises IntegrityError if another receipt was first and its shard has been lost since.
    """
    in_force = write_receipt(out, receipt)
    for file in in_force.shard.files if in_force.shard.files != receipt.shard.files else ():
        if out.files.size(file.path) != file.bytes:
            raise IntegrityError(
                f"{out.files.url}/{file.path}: lost, and this build's shard has other bytes; restore the file, or run "
                f"softcache gc --abandon --yes on the cache, or if nothing is committed yet, delete it and build again"
            )
    return in_force


def rows_arrays(fragment: Fragment, kept: pa.Table, recorded: RecordedViews | None) -> dict[str, pa.Array]:
    """Return the columns of a `rows` shard (docs/format.md, section 4.3)."""
    samples, views = len(fragment.sample_ids), fragment.views
    arrays = {
        "view": pa.array(np.full(samples, fragment.first_view, np.int32)),
        "sample_id": fragment.sample_ids,
        "split": pa.array([fragment.split] * samples, pa.string()),
        "content": pa.array([c.tobytes() for c in fragment.contents], pa.binary()),
    }
    if recorded is not None:
        offsets = np.arange(0, fragment.rows + 1, views, dtype=np.int32)
        arrays["check"] = arrow.column_array(ListColumn(recorded.checks, offsets))
        if (drawn := recorded.parameters) is not None:
            texts = [canonical_json(drawn[i : i + views]).decode() for i in range(0, fragment.rows, views)]
            arrays["parameters"] = pa.array(texts, pa.string())
    for name in sorted(kept.column_names):
        column = kept[name].combine_chunks()
        if arrow.null_count(column):
            rows = [i for i in range(len(column)) if arrow.null_count(column.slice(i, 1))]
            ids = fragment.sample_ids.take(pa.array(rows)).to_pylist()
            raise TransferSetError(
                f"kept column {name!r} lacks values for samples {name_some(ids)}; give some, such as -1"
            )
        arrays[name] = column
    return arrays
