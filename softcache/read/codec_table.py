"""A codec's table, read from a cache to a device."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from softcache.codecs import Codec
from softcache.errors import FormatError
from softcache.store.arrow import column_array
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.files import Files
from softcache.store.shards import CheckedFile
from softcache.store.target_tables import open_table

Columns = dict[str, torch.Tensor]
_KEPT = 8
_loaded: OrderedDict[tuple[str, str, str], Columns] = OrderedDict()
_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock: a child that is forked while another thread holds it would wait forever."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, eq=False)
class CodecTable:
    """A codec's table in a cache. It is read when it is first used, and kept for the whole process.

    Between processes only the name of its file travels, so that a batch from a data loader's worker contains no copy.
    """

    files: Files
    file: CheckedFile
    shapes: Mapping[str, tuple[int, ...]]

    def on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        """Return the columns on a device. Raises IntegrityError or FormatError."""
        key = (self.files.url, self.file.sha256, str(device))
        with _lock:
            if key not in _loaded:
                table = open_table(self.files, self.file)
                columns = {name: _tensor(table[name], name) for name in table.schema.names}
                self._check(columns)
                _loaded[key] = {name: column.to(device) for name, column in columns.items()}
            _loaded.move_to_end(key)
            while len(_loaded) > _KEPT:
                _loaded.popitem(last=False)
            return _loaded[key]

    def _check(self, columns: Columns) -> None:
        found = {name: tuple(column.shape) for name, column in columns.items()}
        if found not in (dict(self.shapes), {n: shape for n, shape in self.shapes.items() if n != "bias"}):
            raise FormatError(f"{self.files.url}/{self.file.path}: has {found}; expected {dict(self.shapes)}")
        if not all(bool(column.isfinite().all()) for column in columns.values()):
            raise FormatError(f"{self.files.url}/{self.file.path}: holds numbers that are not finite")


def with_table(codec: Codec, files: Files, tables: Mapping[str, CheckedFile]) -> Codec:
    """Return a codec with the table that it needs, if it needs one, of a target's `tables`."""
    spec = codec.table_spec
    return codec if spec is None else codec.with_table(CodecTable(files, tables[spec.name], spec.shapes))


def table_batch(columns: Mapping[str, torch.Tensor]) -> pa.RecordBatch:
    """Return a table's columns as a batch: [C] or [C, n] each, bfloat16 as its bits."""
    arrays = {}
    for name, column in columns.items():
        stored = column.detach().cpu().contiguous()
        stored = stored.view(torch.uint16) if stored.dtype == torch.bfloat16 else stored
        arrays[name] = column_array(stored.numpy())
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _tensor(column: pa.Array, name: str) -> torch.Tensor:
    """Return a column as a tensor [C] or [C, n] with its own memory."""
    numbers = column.values if pa.types.is_fixed_size_list(column.type) else column
    dtype = {str(pa.from_numpy_dtype(d)): d for d in NUMPY_DTYPES.values()}.get(str(numbers.type))
    if dtype is None:
        raise FormatError(f"table column {name} is {column.type}; expected numbers")
    values = torch.from_numpy(np.frombuffer(numbers.buffers()[1], dtype, len(numbers)).copy())
    values = values.view(torch.bfloat16) if values.dtype == torch.uint16 else values
    return values.view(len(column), -1) if numbers is not column else values
