"""Exporting committed rows to Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from softcache.errors import StorageError, TaskError
from softcache.read.cache import Cache
from softcache.store.arrow import fixed_size_array
from softcache.store.layout import ROWS

_CHUNK = 65_536


@dataclass(frozen=True)
class Exported:
    """One Parquet file that was written."""

    path: str
    rows: int
    bytes: int


def export(cache: Cache, output: str | os.PathLike[str], to: str = "parquet") -> list[Exported]:
    """Write each target's committed rows as `<output>/<target>/<split>.parquet`.

    Columns are `values` (a list of the row's numbers; bfloat16 becomes float32), `valid`, `sample_id`, `view`; `rows`
    has its own. Raises TaskError for another format than `parquet`, StorageError if a file is there already or cannot
    be written.
    """
    if to != "parquet":
        raise TaskError(f"cannot export to {to!r}; expected parquet")
    written = []
    for split in cache.commit.splits:
        narrowed = cache.split(split)
        written.append(_write(Path(output, ROWS, f"{split}.parquet"), [narrowed.rows.table()]))
        for name in cache.targets:
            rows = narrowed[name].covered_rows()
            chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
            if chunks:
                written.append(
                    _write(Path(output, name, f"{split}.parquet"), (_table(narrowed, name, c) for c in chunks))
                )
    return written


def _table(cache: Cache, name: str, rows: np.ndarray) -> pa.Table:
    soft = cache[name].read(rows)
    values = soft.values.float() if soft.values.dtype == torch.bfloat16 else soft.values
    return pa.table(
        {
            "values": fixed_size_array(values.numpy()),
            "valid": pa.array(soft.mask.numpy()),
            "sample_id": pa.array(soft.ids),
            "view": pa.array(soft.views, pa.int32()),
        }
    )


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
