"""What you should know about a transfer set before you pay for a teacher to answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from softcache.arrays import Array
from softcache.errors import MissingExtra
from softcache.store import arrow
from softcache.transfer.transfer_set import Scan, TransferSet

_CHUNK, _DECODED_AT_ONCE, LISTED = 4096, 64, 20
NO_LABEL = -1


@dataclass
class Finding:
    """The number of samples that have one problem, and the ids of the first `LISTED` of them."""

    count: int = 0
    ids: list[Any] = field(default_factory=list)

    def add(self, ids: Sequence[Any]) -> None:
        """Add samples that have the problem."""
        self.count += len(ids)
        self.ids += list(ids)[: LISTED - len(self.ids)]


@dataclass(kw_only=True)
class Hygiene:
    """What an inspection of a transfer set found.

    Attributes:
        samples: the number of samples.
        decoded: the number of samples that the inspection tried to decode.
        duplicates: samples with the same content as an earlier one.
        contradictions: duplicates whose label differs from the earlier one's, by label column.
        missing: samples without a value, by column.
        not_finite: samples with NaN or an infinity in a column of numbers, by column.
        not_classes: samples whose label is not a class (-1 stands for no label), by label column.
        undecodable: samples that cannot be decoded, by reason.
        ranges: the lowest and the highest finite number, by column of numbers.
        labels: the number of samples of each label, by label column.
    """

    samples: int
    decoded: int = 0
    duplicates: Finding = field(default_factory=Finding)
    contradictions: dict[str, Finding] = field(default_factory=dict)
    missing: dict[str, Finding] = field(default_factory=dict)
    not_finite: dict[str, Finding] = field(default_factory=dict)
    not_classes: dict[str, Finding] = field(default_factory=dict)
    undecodable: dict[str, Finding] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    labels: dict[str, dict[Any, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the findings as a JSON object."""
        return asdict(self)


def inspect(
    transfer_set: TransferSet,
    scan: Scan,
    labels: Mapping[str, Callable[[Any], bool]],
    decode: int | None = None,
    progress: Callable[[int], object] = lambda samples: None,
) -> Hygiene:
    """Inspect a transfer set that has been scanned.

    `labels` maps each label column to a function that says whether a value is allowed: a class, or the value that
    stands for no label. `decode` is how many samples to decode, spread evenly over the set; by default all. `progress`
    is called with the number of samples decoded since its last call. Raises MissingExtra if a library is missing.
    """
    found = Hygiene(samples=len(transfer_set))
    values: dict[str, list[Any]] = {column: [] for column in labels}
    columns = list(dict.fromkeys([*transfer_set.content, *transfer_set.keep]))
    for begin in range(0, len(transfer_set), _CHUNK):
        positions = np.arange(begin, min(begin + _CHUNK, len(transfer_set)))
        table, ids = transfer_set.table(positions, columns), scan.sample_ids.slice(begin, len(positions))
        for name in columns:
            _look_at(found, name, table[name].combine_chunks(), ids)
        for name in labels:
            values[name] += map(_label, table[name].to_pylist())
    for name, is_class in labels.items():
        _look_at_labels(found, name, values[name], scan.sample_ids, is_class)
    _look_for_duplicates(found, scan, values)
    _decode(found, transfer_set, scan, decode, progress)
    return found


def _look_at(found: Hygiene, name: str, column: pa.Array, ids: pa.Array) -> None:
    """Record missing values, numbers that are not finite, and the range of the finite ones."""
    if arrow.null_count(column):
        absent = [i for i in range(len(column)) if arrow.null_count(column.slice(i, 1))]
        found.missing.setdefault(name, Finding()).add(ids.take(pa.array(absent)).to_pylist())
    numbers, rows = _numbers(column)
    finite = np.isfinite(numbers) if numbers.dtype.kind == "f" else np.ones(len(numbers), np.bool_)
    if not finite.all():
        bad = np.unique(rows[~finite])
        found.not_finite.setdefault(name, Finding()).add(ids.take(pa.array(bad)).to_pylist())
    if finite.any():
        low, high = (float(f(numbers[finite])) for f in (np.min, np.max))
        before = found.ranges.get(name, (low, high))
        found.ranges[name] = min(before[0], low), max(before[1], high)


def _numbers(column: pa.Array) -> tuple[Array, Array]:
    """Return the numbers of a column that are not missing, also those in (nested) lists, and each one's row."""
    rows: Array = np.arange(len(column))
    while kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type):
        rows = rows[pc.list_parent_indices(column).to_numpy()]
        column = pc.list_flatten(column)
    if not kinds.is_integer(column.type) and not kinds.is_floating(column.type):
        return np.empty(0), rows[:0]
    return pc.drop_null(column).to_numpy(zero_copy_only=False), rows[pc.is_valid(column).to_numpy(zero_copy_only=False)]


def _look_at_labels(
    found: Hygiene, name: str, values: list[Any], ids: pa.Array, is_class: Callable[[Any], bool]
) -> None:
    counts = Counter(value for value in values if value is not None)
    found.labels[name] = dict(sorted(counts.items(), key=lambda pair: (str(type(pair[0])), pair[0])))
    strange = {value for value in counts if not is_class(value)}
    if strange:
        rows = [i for i, value in enumerate(values) if value in strange]
        found.not_classes.setdefault(name, Finding()).add(ids.take(pa.array(rows)).to_pylist())


def _label(value: Any) -> Any:
    """Return a label as a value that equals itself, can be counted, and can be written as JSON."""
    return value if value is None or (isinstance(value, str | int | float) and value == value) else str(value)


def _look_for_duplicates(found: Hygiene, scan: Scan, labels: Mapping[str, list[Any]]) -> None:
    """Record samples with the content of an earlier one.

    Only eight bytes of each hash are sorted, to save memory; candidates are then compared by their whole hash.
    """
    short = scan.contents[:, :8].copy().view(np.uint64)[:, 0]
    order = np.argsort(short, kind="stable")
    ordered = short[order]
    shared = np.zeros(len(ordered), np.bool_)
    shared[1:] = ordered[1:] == ordered[:-1]
    shared[:-1] |= shared[1:]
    first: dict[bytes, dict[str, Any]] = {}
    for position in np.sort(order[shared]).tolist():
        content, sample_id = scan.contents[position].tobytes(), scan.sample_ids[position].as_py()
        if content in first:
            found.duplicates.add([sample_id])
        known = first.setdefault(content, {})
        for name, values in labels.items():
            label = values[position]
            if label not in (None, NO_LABEL) and known.setdefault(name, label) != label:
                found.contradictions.setdefault(name, Finding()).add([sample_id])


def _decode(
    found: Hygiene, transfer_set: TransferSet, scan: Scan, count: int | None, progress: Callable[[int], object]
) -> None:
    """Record samples that cannot be decoded, out of `count` spread evenly over the set; None for all."""
    wanted = len(transfer_set) if count is None else min(count, len(transfer_set))
    chosen = np.unique(np.linspace(0, len(transfer_set) - 1, wanted).astype(np.int64))
    found.decoded = len(chosen)
    for begin in range(0, len(chosen), _DECODED_AT_ONCE):
        positions = chosen[begin : begin + _DECODED_AT_ONCE]
        if _reason(transfer_set, positions) is not None:
            for position in positions:
                reason = _reason(transfer_set, np.array([position]))
                if reason is not None:
                    sample_id = scan.sample_ids[int(position)].as_py()
                    found.undecodable.setdefault(reason, Finding()).add([sample_id])
        progress(len(positions))


def _reason(transfer_set: TransferSet, positions: Array) -> str | None:
    """Return why samples cannot be decoded, None if they can."""
    try:
        transfer_set.samples(positions, transfer_set.content)
    except MissingExtra:
        raise
    except Exception as e:  # noqa: BLE001 - decoders raise anything
        return f"{type(e).__name__}: {e}".encode(errors="replace").decode()
    return None
