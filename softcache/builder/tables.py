"""A target's tables: read where they are, otherwise made from the teacher and published before any shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import torch

from softcache.builder.jobs import Job
from softcache.builder.pipeline import Runner
from softcache.builder.targets import BuildTarget
from softcache.codecs.base import Pilot
from softcache.errors import IntegrityError, TeacherError
from softcache.read.stored_table import StoredTable, table_batch
from softcache.store.commits import CommittedTarget
from softcache.store.files import Files
from softcache.store.receipts import read_receipts, receipt_keys
from softcache.store.shards import StoredFile
from softcache.store.target_tables import keep_tables, read_tables, restore_tables, write_tables


class TargetPilot:
    """What a target's table is made from: its teacher, on some of the samples."""

    def __init__(self, runner: Runner, target: BuildTarget, jobs: Sequence[Job]) -> None:
        self._runner, self._target, self._jobs = runner, target, jobs

    def values(self, items: int) -> torch.Tensor:
        found = self._runner.sample(self._target, self._jobs, items)
        if not len(found):
            raise TeacherError(
                f"{self._target.name}: no table can be made, since no sample that was tried has an answer"
            )
        return found

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self._runner.teacher.output_layer()


def with_tables(
    files: Files, runner: Runner, target: BuildTarget, jobs: Sequence[Job], committed: CommittedTarget | None
) -> BuildTarget:
    """Return a target whose codec has its table, all tables of the target being published.

    `jobs` are what is left of it, `committed` what the newest commit says of it. Raises IntegrityError if the tables
    that its shards were made with are lost.
    """
    if not target.has_tables:
        return target
    in_force = tables_in_force(files, target, committed)
    if in_force is None:
        made = _made(target, TargetPilot(runner, target, jobs))
        in_force = write_tables(files, target.name, target.fingerprint, target.tables | made).tables
    name = target.codec.table_name
    if name is None:
        return target
    return replace(target, codec=target.codec.with_table(StoredTable(files, in_force[name], target.codec.table_shapes)))


def tables_in_force(
    files: Files, target: BuildTarget, committed: CommittedTarget | None
) -> dict[str, StoredFile] | None:
    """Return a target's tables: those of the newest commit, else those published; None before that.

    Raises IntegrityError if they are lost and shards made with them are there.
    """
    if not target.has_tables:
        return {}
    if committed is not None and committed.fingerprint == target.fingerprint:
        keep_tables(files, restore_tables(files, target.name, target.fingerprint, committed.tables))
        return committed.tables
    try:
        return keep_tables(files, read_tables(files, target.fingerprint)).tables
    except FileNotFoundError:
        receipts = read_receipts(files, receipt_keys(files))
        if any(receipt.fingerprint == target.fingerprint for receipt in receipts):
            raise IntegrityError(
                f"{files.url}: the tables of {target.name} are lost, and shards made with them are there; restore "
                "tables/, or give the unfinished part up with: softcache gc DIR --abandon --yes"
            ) from None
        return None


def _made(target: BuildTarget, pilot: Pilot) -> dict[str, pa.RecordBatch]:
    """Return the table that a target's codec needs, by name."""
    name = target.codec.table_name
    return {} if name is None else {name: table_batch(target.codec.make_table(pilot))}
