"""A target's tables: read if they exist, otherwise made from the teacher and published before any shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from softcache.builder.answer.jobs import Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.sampling import sample_values
from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.errors import IntegrityError, TeacherError
from softcache.read.codec_table import table_batch, with_table
from softcache.store.files import Files
from softcache.store.shards import CheckedFile
from softcache.store.target_tables import keep_tables, tables_in_force, tables_paths, write_tables
from softcache.store.writer import Writer


@dataclass(frozen=True, eq=False)
class TeacherPilot:
    """A pilot that asks a loaded teacher for some of its answers to a target."""

    predictor: Predictor
    target: BuildTarget
    jobs: Sequence[Job]

    def values(self, items: int) -> torch.Tensor:
        found = sample_values(self.predictor, self.target, self.jobs, items)
        if not len(found):
            raise TeacherError(
                f"{self.target.name}: its codec's table cannot be made, since no sample that was tried has an answer"
            )
        return found

    def output_layer(self) -> dict[str, torch.Tensor]:
        return self.predictor.teacher.output_layer()


def publish_tables(
    out: Writer, predictor: Predictor, target: BuildTarget, jobs: Sequence[Job], inventory: Inventory
) -> BuildTarget:
    """Publish a target's tables unless they are published, and return the target with its codec's table.

    `jobs` are what is left of it. Raises IntegrityError if the tables are lost that existing shards were made with.
    """
    if not target.has_tables:
        return target
    in_force = published_tables(out.files, target, inventory)
    if in_force is None:
        made = _made(target, TeacherPilot(predictor, target, jobs))
        in_force = write_tables(out, target.name, target.fingerprint, target.tables | made).tables
    return replace(target, codec=with_table(target.codec, out.files, in_force))


def published_tables(files: Files, target: BuildTarget, inventory: Inventory) -> dict[str, CheckedFile] | None:
    """Return a target's tables: those of the newest commit, else those published; None before that.

    Raises IntegrityError if they are lost and shards made with them exist.
    """
    if not target.has_tables:
        return {}
    committed = inventory.committed(target.name)
    if committed is not None and committed.fingerprint == target.fingerprint:
        keep_tables(files, target.name, committed.tables.values())
        return committed.tables
    found = tables_in_force(files, tables_paths(files).get(target.fingerprint, ()), inventory.condemned)
    if found is not None:
        path, tables = found
        keep_tables(files, target.name, tables.tables.values(), path)
        return tables.tables
    if any(receipt.fingerprint == target.fingerprint for receipt in inventory.receipts.values()):
        raise IntegrityError(
            f"{files.url}: the tables of {target.name} are lost, and shards made with them exist; restore tables/, "
            f"or {inventory.how_to_give_up}"
        )
    return None


def _made(target: BuildTarget, pilot: TeacherPilot) -> dict[str, pa.RecordBatch]:
    """Return the table that a target's codec needs, by name."""
    spec = target.codec.table_spec
    return {} if spec is None else {spec.name: table_batch(spec.make(pilot))}
