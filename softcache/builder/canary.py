"""Canaries: a few stored rows are predicted again before unfinished work is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from softcache.builder.jobs import Job
from softcache.builder.pipeline import Runner
from softcache.builder.targets import BuildTarget
from softcache.builder.units import Stored, Unit
from softcache.errors import TeacherError, name_some
from softcache.read.gather import FlagColumn, ShardReader
from softcache.read.row_keys import KnownKeys
from softcache.read.sequences import SequenceReader
from softcache.read.target import open_columns
from softcache.store.files import Files
from softcache.store.manifest import LiveShard, Manifest, dump_manifest
from softcache.store.shards import Shard

ROWS = 2
ITEMS = 16
TOLERANCE = 1e-3


def check_canaries(
    files: Files,
    runner: Runner,
    target: BuildTarget,
    units: Sequence[Unit],
    positions: dict[int, np.ndarray],
    stored: Stored,
) -> None:
    """Predict a few rows of the first and the last finished fragment again and compare them with what is stored.

    Raises TeacherError if they differ by more than rounding: the teacher's answers depend on something undeclared.
    """
    shards = ((u.fragment, stored.shard(u)) for u in units if u.name == target.name)
    done = [(fragment, shard) for fragment, shard in shards if shard is not None and shard.statistics["valid"]]
    for fragment, shard in {fragment.number: (fragment, shard) for fragment, shard in (*done[:1], *done[-1:])}.values():
        _check_fragment(files, runner, target, Job(fragment, positions[fragment.number], [target]), shard)


def _check_fragment(files: Files, runner: Runner, target: BuildTarget, job: Job, shard: Shard) -> None:
    stored = _Stored(files, shard, target)
    answered = np.flatnonzero(stored.valid)
    rows = np.unique(answered[np.linspace(0, len(answered) - 1, ROWS).astype(int)])
    answers = runner.predict_rows(job, rows.tolist())[target.name]
    columns, owners = stored.items(rows)
    now = answers.encoded()
    if not target.task.is_list:
        now = {name: column[rows] for name, column in now.items()}
    picked = np.unique(np.linspace(0, len(owners) - 1, ITEMS).astype(int)) if len(owners) else owners
    if any(len(now[name]) != len(column) for name, column in columns.items()):
        ids = name_some(job.names(rows.tolist()))
        raise TeacherError(
            f"{target.name}: samples {ids} are answered at other positions than what is stored, though nothing "
            "declared has changed; list what did under teachers.*.code"
        )
    for item in picked.tolist():
        row = int(owners[item])
        was = {name: column[[item]] for name, column in columns.items()}
        is_now = {name: now[name][[item]] for name in columns}
        for what, old, new, eps in _compared(target, was, is_now, stored.eps):
            scale = max(1.0, float(old[old.isfinite()].abs().max()) if old.isfinite().any() else 1.0)
            allowed = scale * (TOLERANCE + eps)
            if row in answers.bad or not torch.allclose(old, new, rtol=0, atol=allowed):
                (sample,) = job.names([row])
                worst = float((old - new).abs().nan_to_num(torch.inf).max())
                raise TeacherError(
                    f"{target.name}: {what} of sample {sample!r} is answered otherwise than what is stored (by "
                    f"{worst:.3g}; {allowed:.3g} is allowed), though nothing declared has changed; list what did under "
                    "teachers.*.code"
                )


def _compared(
    target: BuildTarget, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], eps: float
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """Yield what is compared of an item, each by its own scale: its values, and each of its parts.

    With it what is stored and what is answered now, float64 [n], and how far apart its dtype puts neighbours.
    """
    values = target.codec.compared
    yield "the answer", values(old).double().flatten(), values(new).double().flatten(), eps
    for name in (part.name for part in target.task.stored_parts):
        yield name, old[name].double().flatten(), new[name].double().flatten(), 0.0


class _Stored:
    """The values and `valid` of one shard, committed or not, read with its blocks checked."""

    def __init__(self, files: Files, shard: Shard, target: BuildTarget) -> None:
        alone = Manifest(dump_manifest([LiveShard(shard, "train", 0, 0, 1, 0)]), shard.unit_key).shards_of(target.name)
        self._reader = ShardReader(files, alone)
        self._target, self._first = target, np.zeros(shard.rows, np.int64)
        self.valid = FlagColumn(self._reader, "valid").take(self._first, np.arange(shard.rows))
        empty = target.codec.compared(target.codec.missing(1))
        self.eps = torch.finfo(empty.dtype).eps

    def items(self, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Return the codec's columns of some rows, an item for each or for each position, and the items' rows."""
        columns, first = open_columns(self._reader, self._target.codec), self._first[rows]
        if isinstance(columns, SequenceReader):
            keys = KnownKeys(rows, np.zeros_like(rows))
            found = columns.take(first, rows, None, keys, None)
            return dict(found.columns), rows[found.row.numpy()]
        return {name: column.take(first, rows) for name, column in columns.items()}, rows
