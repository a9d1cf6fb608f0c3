"""Where samples come from: Arrow tables, `datasets` datasets, image folders.

A source gives samples in two forms: as stored, for hashes and kept columns; and decoded, for teachers.
"""

from __future__ import annotations

import glob
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import MissingExtra, TransferSetError
from softcache.transfer.content import fixed_numbers

Sample = dict[str, Any]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
FILE_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}


class Source(ABC):
    """Samples at the positions 0 … len - 1, with named columns."""

    columns: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        """Return columns of the samples at `positions`, int64 [n], as stored: images and audio as bytes of files."""

    def positions(self, positions: Array) -> Array:
        """Return where samples are in the whole source, int64 [n], if this is a part of one."""
        return positions

    def labels(self, column: str) -> Sequence[str] | None:
        """Return the class names of a column of class numbers, in order; None if the source does not know them."""
        return None

    def decode(self, table: pa.Table) -> list[Sample]:
        """Return what `read` returned as one dict per sample: numbers as NumPy arrays, images as PIL images."""
        columns = {name: self._decode_column(name, table[name].combine_chunks()) for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _decode_column(self, name: str, column: pa.Array) -> Sequence[Any]:
        numbers = fixed_numbers(column)
        if numbers is not None:
            return list(numbers) if numbers.ndim > 1 else list(numbers.tolist())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            return [None if v is None else np.asarray(v) for v in column.to_pylist()]
        return column.to_pylist()  # type: ignore[no-any-return]


class TableSource(Source):
    """An Arrow table, in memory or memory-mapped."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.columns = tuple(table.column_names)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def read(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        chosen = self._table.select(list(columns))
        if len(positions) and positions[-1] - positions[0] == len(positions) - 1 and (np.diff(positions) == 1).all():
            return chosen.slice(int(positions[0]), len(positions))
        return chosen.take(pa.array(positions))


class DatasetSource(Source):
    """A `datasets.Dataset`. Image and audio columns are read as bytes, and decoded by their features."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset.with_format("arrow")
        self._features = dataset.features
        self.columns = tuple(dataset.column_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def labels(self, column: str) -> Sequence[str] | None:
        return getattr(self._features.get(column), "names", None)

    def read(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        table = self._dataset.select_columns(list(columns))[positions]
        for name in columns:
            feature = self._features[name]
            if hasattr(feature, "embed_storage"):
                embedded = feature.embed_storage(feature.cast_storage(table[name].combine_chunks()))
                table = table.set_column(table.column_names.index(name), name, embedded.field("bytes"))
        return table

    def _decode_column(self, name: str, column: pa.Array) -> Sequence[Any]:
        feature = self._features[name]
        if not hasattr(feature, "embed_storage"):
            return super()._decode_column(name, column)
        return [None if v is None else feature.decode_example({"bytes": v, "path": None}) for v in column.to_pylist()]


class ImageFolder(Source):
    """The images below a folder: columns `path` (relative), `image` (a PIL image), `label` (the parent folder)."""

    columns = ("path", "image", "label")

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise TransferSetError(f"{folder}: no such folder")
        self._folder = folder
        found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        self._paths = sorted(p.relative_to(folder).as_posix() for p in found)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        paths = [self._paths[i] for i in positions]
        make: dict[str, Callable[[], pa.Array]] = {
            "path": lambda: pa.array(paths, pa.string()),
            "image": lambda: pa.array([self._folder.joinpath(p).read_bytes() for p in paths], pa.binary()),
            "label": lambda: pa.array([Path(p).parent.name for p in paths], pa.string()),
        }
        return pa.table({name: make[name]() for name in columns})

    def _decode_column(self, name: str, column: pa.Array) -> Sequence[Any]:
        if name != "image":
            return column.to_pylist()  # type: ignore[no-any-return]
        try:
            from PIL import Image
        except ImportError as e:
            raise MissingExtra("images need Pillow: pip install 'softcache[images]'") from e
        images = [Image.open(io.BytesIO(data)) for data in column.to_pylist()]
        for image in images:
            image.load()
        return images


def from_object(made: Any) -> Source:
    """Return a source for what a callable made: a `datasets.Dataset`, an Arrow table, or a mapping of columns.

    A column is a sequence, array or tensor with one entry per sample. An array of several dimensions becomes fixed-size
    lists. Raises TransferSetError for anything else.
    """
    if isinstance(made, Source):
        return made
    if isinstance(made, pa.Table):
        if len(set(made.column_names)) != made.num_columns:
            raise TransferSetError(f"column names repeat: {', '.join(made.column_names)}")
        return TableSource(made)
    if hasattr(made, "features") and hasattr(made, "with_format") and hasattr(made, "__len__"):
        return DatasetSource(made)
    if not isinstance(made, Mapping):
        kind = type(made).__name__
        raise TransferSetError(
            f"the callable returned {kind}; expected a datasets.Dataset, a pyarrow.Table or a mapping of columns"
        )
    try:
        return TableSource(pa.table({str(name): _column(values) for name, values in made.items()}))
    except (pa.ArrowException, TypeError, ValueError, OverflowError, RuntimeError) as e:
        raise TransferSetError(f"the callable's columns do not form a table: {e}") from e


def from_samples(samples: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return columns of samples that are in memory as a table. Raises TransferSetError if they do not form one."""
    try:
        return pa.table({name: _column(_stacked([sample[name] for sample in samples])) for name in columns})
    except (pa.ArrowException, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as e:
        raise TransferSetError(f"samples do not form a table of {', '.join(columns)}: {type(e).__name__}: {e}") from e


def _stacked(values: list[Any]) -> Any:
    """Return arrays or tensors of one shape as one array; anything else as it is."""
    if not all(hasattr(value, "__array__") for value in values):
        return values
    arrays = [np.asarray(value) for value in values]
    return np.stack(arrays) if len({(a.shape, a.dtype) for a in arrays}) == 1 else arrays


def _column(values: Any) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values
    if isinstance(values, Sequence):
        return pa.array(values)
    array = np.ascontiguousarray(values)
    column = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def open_dataset(path: str, name: str | None, split: str) -> Source:
    """Open a `datasets` dataset: a folder made by `save_to_disk`, or anything that `load_dataset` takes.

    Raises TransferSetError if it cannot be loaded, MissingExtra without `datasets`.
    """
    datasets = _datasets()
    try:
        if os.path.exists(os.path.join(path, "state.json")):
            return DatasetSource(datasets.load_from_disk(path))
        if os.path.exists(os.path.join(path, "dataset_dict.json")):
            return DatasetSource(datasets.load_from_disk(path)[split])
        return DatasetSource(datasets.load_dataset(path, name, split=split))
    except Exception as e:
        raise TransferSetError(f"dataset {path!r} ({name or 'default'}, split {split}): {type(e).__name__}: {e}") from e


def open_files(paths: Sequence[str], folder: Path) -> Source:
    """Open Parquet, Arrow, JSON (lines) or CSV files, all of one format.

    `paths` are relative to `folder` and may have wildcards. Raises TransferSetError if a file is missing or cannot be
    read, MissingExtra without `datasets`.
    """
    found = [match for p in paths for match in sorted(glob.glob(str(folder / p), recursive=True)) or [str(folder / p)]]
    absent = [p for p in found if not os.path.isfile(p)]
    if absent:
        raise TransferSetError(f"no such file: {', '.join(absent[:5])}")
    formats = {FILE_FORMATS.get(Path(p).suffix.lower(), "?") for p in found}
    if len(formats) != 1 or "?" in formats:
        raise TransferSetError(
            f"{', '.join(found[:5])}: expected files of one format, with one of the suffixes {', '.join(FILE_FORMATS)}"
        )
    datasets = _datasets()
    try:
        return DatasetSource(datasets.load_dataset(formats.pop(), data_files=found, split="train"))
    except Exception as e:
        raise TransferSetError(f"{', '.join(found[:5])}: {type(e).__name__}: {e}") from e


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as e:
        raise MissingExtra("this transfer set needs datasets: pip install 'softcache[hf]'") from e
    return datasets
