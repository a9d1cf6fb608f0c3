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
from softcache.errors import IntegrityError
from softcache.read.stored_table import StoredTable, table_batch
from softcache.store.files import Files
from softcache.store.target_tables import keep_tables, read_tables, write_tables


class TargetPilot:
    """What a target's table is made from: its teacher, on some of the samples."""

    def __init__(self, runner: Runner, target: BuildTarget, jobs: Sequence[Job]) -> None:
        self._runner, self._target, self._jobs = runner, target, jobs

    def values(self, items: int) -> torch.Tensor:
        return self._runner.sample(self._target, self._jobs, items)

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self._runner.teacher.output_layer()


def with_tables(files: Files, runner: Runner, target: BuildTarget, jobs: Sequence[Job], *, begun: bool) -> BuildTarget:
    """Return a target whose codec has its table, all tables of the target being published.

    `jobs` are what is left of it; `begun` says that a shard of it is done. Raises IntegrityError if it is and the
    tables that it was made with are lost.
    """
    if not target.has_tables:
        return target
    try:
        in_force = keep_tables(files, read_tables(files, target.fingerprint))
    except FileNotFoundError:
        if begun:
            raise IntegrityError(
                f"{files.url}: the tables of {target.name} are lost, and shards made with them are there; restore "
                "tables/, or give the unfinished part up with: softcache gc DIR --abandon --yes"
            ) from None
        made = _made(target, TargetPilot(runner, target, jobs))
        in_force = write_tables(files, target.name, target.fingerprint, target.tables | made)
    name = target.codec.table_name
    if name is None:
        return target
    return replace(target, codec=target.codec.with_table(StoredTable(files, in_force.tables[name])))


def _made(target: BuildTarget, pilot: Pilot) -> dict[str, pa.RecordBatch]:
    """Return the table that a target's codec needs, by name."""
    name = target.codec.table_name
    return {} if name is None else {name: table_batch(target.codec.make_table(pilot))}
