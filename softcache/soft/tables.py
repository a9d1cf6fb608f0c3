"""Everything that a target answers as one table, for students that are not neural networks."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.codecs import check_temperature
from softcache.errors import MissingExtra, TaskError
from softcache.soft.keys import RowKeys
from softcache.soft.readable import Readable
from softcache.soft.targets import MAX_DENSE_BYTES
from softcache.tasks import TaskSpec

_NUMBERS = 2**24


def to_pandas(target: Readable, temperature: float, split: str | None) -> Any:
    """Return the answered rows as a `pandas.DataFrame`: see `Target.to_pandas`."""
    try:
        import pandas
    except ImportError as e:
        raise MissingExtra("to_pandas needs pandas: pip install 'softcache[tables]'") from e
    found = _read(target, temperature, split)
    index = pandas.Index(found.keys.ids, name="sample_id")
    if target.most_views > 1:
        index = pandas.MultiIndex.from_arrays([found.keys.ids, found.keys.views], names=["sample_id", "view"])
    return pandas.DataFrame(found.numbers, index=index, columns=_column_names(target.task), copy=False)


def to_hf(target: Readable, temperature: float, split: str | None) -> Any:
    """Return the answered rows as a `datasets.Dataset` of sample_id, view and probs: see `Target.to_hf`."""
    try:
        import datasets
    except ImportError as e:
        raise MissingExtra("to_hf needs datasets: pip install 'softcache[hf]'") from e
    if not target.task.has_temperature:
        raise TaskError(f"{target.name} is a {target.task.kind} target: it has no temperature; leave temperature out")
    found = _read(target, temperature, split)
    probs = pa.FixedSizeListArray.from_arrays(pa.array(found.numbers.ravel()), found.numbers.shape[1])
    ids = pa.array(found.keys.ids, None if found.keys.ids.dtype.kind == "i" else pa.string())
    table = pa.table({"sample_id": ids, "view": found.keys.views, "probs": probs})
    return datasets.Dataset(table, split=None if split is None else datasets.NamedSplit(split))


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The keys of n rows, and float32 numbers [n, C] for each."""

    keys: RowKeys
    numbers: Array


def _read(target: Readable, temperature: float, split: str | None) -> _Numbers:
    """Return the probabilities, or numbers of a task without classes, of all answered rows. Raises TaskError."""
    _check(target, temperature)
    keys, width = target.covered_keys(split), target.task.shape[0]
    rows = len(keys.views)
    if 4 * rows * width > MAX_DENSE_BYTES:
        raise TaskError(
            f"{target.name}: {rows:,} rows of {width:,} numbers would take {4 * rows * width / 2**30:.1f} GiB; take "
            "one split, or .lookup some ids at a time"
        )
    ids, views, at_once = keys.ids, keys.views, max(_NUMBERS // width, 1)
    numbers, answered, count = np.empty((rows, width), np.float32), np.empty(rows, np.bool_), 0
    for begin in range(0, rows, at_once):
        part = slice(begin, begin + at_once)
        soft = target.lookup(ids[part], views[part], mask_uncovered=True)
        values = soft.probs(temperature) if target.task.has_temperature else soft.values.float()
        answered[part] = soft.answered.numpy()
        given = values[soft.answered].numpy()
        numbers[count : count + len(given)] = given
        count += len(given)
    return _Numbers(keys.take(answered), numbers[:count])


def _check(target: Readable, temperature: float) -> None:
    task = target.task
    if task.is_list or len(task.shape) > 1:
        what = "a sequence" if task.is_list else f"an array {list(task.shape)}"
        raise TaskError(
            f"{target.name} is a {task.kind} target: a row is {what}, and a table has one number a class; use .lookup"
        )
    if not isinstance(check_temperature(temperature, 1), float):
        raise TaskError("temperature is a tensor; a table has one temperature for all rows")
    if not task.has_temperature and temperature != 1:
        raise TaskError(f"{target.name} is a {task.kind} target: it has no temperature; leave temperature out")


def _column_names(task: TaskSpec) -> list[Hashable]:
    """Return a name for each number of a row: the class's label, or its number if the task has no labels."""
    if not task.has_temperature:
        return list(range(task.shape[0]))
    known = range(task.label_space) if task.known is None else task.known
    names: list[Hashable] = [c if task.labels is None else task.labels[c] for c in known]
    return [*names, "dustbin"] if task.dustbin else names
