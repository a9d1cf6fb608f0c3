"""Canaries: a few stored rows are predicted again before unfinished work is resumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from softcache.builder.pipeline import Job, Runner
from softcache.builder.targets import BuildTarget
from softcache.builder.units import Stored, Unit
from softcache.errors import TeacherError
from softcache.read.gather import FixedColumn, FlagColumn, ShardReader
from softcache.store.files import Files
from softcache.store.manifest import LiveShard, Manifest, dump_manifest
from softcache.store.shards import Shard

ROWS = 4
TOLERANCE = 1e-3


def check_canaries(
    files: Files,
    runner: Runner,
    target: BuildTarget,
    units: Sequence[Unit],
    positions: dict[int, np.ndarray],
    stored: Stored,
) -> None:
    """Predict the first rows of one finished fragment again and compare them with what is stored.

    Raises TeacherError if they differ by more than rounding: the teacher's answers depend on something undeclared.
    """
    done = next((u for u in units if u.name == target.name and stored.has(u)), None)
    if done is None:
        return
    number = done.fragment.number
    shard = stored.receipts[done.key].shard if done.key in stored.receipts else stored.live[done.name, number].shard
    rows = np.arange(min(ROWS, shard.rows))
    before, was_valid = _read(files, shard, target, rows)
    answers = runner.predict_rows(Job(done.fragment, positions[number], [target]), rows.tolist())[target.name]
    now = target.codec.values({name: column[: len(rows)] for name, column in answers.tensors().items()})
    for row in rows.tolist():
        if not was_valid[row] or row in answers.bad:
            continue
        old, new = before[row].double(), now[row].double()
        scale = max(1.0, float(old[old.isfinite()].abs().max()) if old.isfinite().any() else 1.0)
        allowed = scale * (TOLERANCE + torch.finfo(now.dtype).eps)
        if not torch.allclose(old, new, rtol=0, atol=allowed, equal_nan=True):
            sample = done.fragment.sample_ids[row].as_py()
            worst = float((old - new).abs().nan_to_num(torch.inf).max())
            raise TeacherError(
                f"{target.name}: sample {sample!r} is answered otherwise than what is stored (by {worst:.3g}; "
                f"{allowed:.3g} is allowed), though nothing declared has changed; list what did under teachers.*.code"
            )


def _read(files: Files, shard: Shard, target: BuildTarget, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Read rows of one shard, committed or not, with its blocks checked."""
    alone = Manifest(dump_manifest([LiveShard(shard, "train", 0, 0, 1, 0)]), shard.unit_key).targets()[target.name]
    reader, first = ShardReader(files, alone), np.zeros(len(rows), np.int64)
    columns = {c.name: FixedColumn(reader, c.name, c.dtype, c.shape).take(first, rows) for c in target.codec.columns}
    return target.codec.values(columns), FlagColumn(reader, "valid").take(first, rows)
