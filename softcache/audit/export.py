"""`softcache export`: committed rows as Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from softcache.arrays import Array
from softcache.errors import StorageError, TaskError
from softcache.read.cache import open as open_cache
from softcache.read.target import Target
from softcache.store.layout import ROWS

_CHUNK = 65_536


@dataclass(frozen=True)
class Exported:
    """One Parquet file that was written."""

    path: str
    rows: int
    bytes: int


def export(url: str | os.PathLike[str], output: str | os.PathLike[str], to: str = "parquet") -> list[Exported]:
    """Write each target's committed rows as `<output>/<target>/<split>.parquet`.

    Columns are `values` (the row's numbers, as nested lists of the task's shape; bfloat16 becomes float32), `valid`,
    `sample_id`, `view`. Where not every class has a value, and where rows are sequences, the columns are those of the
    shards (docs/format.md, section 11); `rows` has its own.

    Raises as `softcache.open`, TaskError for a format other than `parquet`, and StorageError if a file already exists
    or cannot be written.

    Examples:
        >>> written = softcache.export("runs/digits", "exported")
        >>> written[1].path, written[1].rows
        ('exported/digit@a/train.parquet', 1797)
    """
    if to != "parquet":
        raise TaskError(f"cannot export to {to!r}; expected parquet")
    cache = open_cache(url)
    written = []
    for split in cache.commit.splits:
        narrowed = cache.split(split)
        written.append(_write(Path(output, ROWS, f"{split}.parquet"), [narrowed.rows.table()]))
        for name in cache.targets:
            if len(narrowed[name].covered_rows()):
                written.append(_write(Path(output, name, f"{split}.parquet"), _tables(narrowed[name])))
    return written


def _tables(target: Target) -> Iterator[pa.Table]:
    """Yield a target's rows: the values if every class has one, otherwise the columns as they are stored."""
    if target.task.is_list:
        yield target.table()
        return
    rows = target.covered_rows()
    for begin in range(0, len(rows), _CHUNK):
        soft = target.read(rows[begin : begin + _CHUNK])
        stored = {name: _nested(column.numpy()) for name, column in soft.columns.items()}
        if target.codec.traits.has_all_values:
            values = soft.values.float() if soft.values.dtype == torch.bfloat16 else soft.values
            stored = {"values": _nested(values.numpy())}
            stored |= {name: _nested(part.numpy()) for name, part in soft.parts.items()}
        keys = {"sample_id": pa.array(soft.ids), "view": pa.array(soft.views, pa.int32())}
        yield pa.table(stored | {"valid": pa.array(soft.mask.numpy())} | keys)


def _nested(values: Array) -> pa.Array:
    """Return values [rows, ...] as fixed-size lists, one level for each dimension."""
    nested = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        nested = pa.FixedSizeListArray.from_arrays(nested, size)
    return nested


def _write(path: Path, tables: Iterable[pa.Table]) -> Exported:
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            writer = None
            for table in tables:
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                rows += table.num_rows
            if writer is not None:
                writer.close()
        return Exported(str(path), rows, path.stat().st_size)
    except FileExistsError as e:
        raise StorageError(f"{path}: there already; export to an empty folder") from e
    except OSError as e:
        raise StorageError(f"{path}: {e.strerror or e}") from e
