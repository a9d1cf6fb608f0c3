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

ROWS = 2
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
    values, valid = _read(files, shard, target)
    answered = np.flatnonzero(valid)
    rows = np.unique(answered[np.linspace(0, len(answered) - 1, ROWS).astype(int)])
    answers = runner.predict_rows(job, rows.tolist())[target.name]
    now = target.codec.compared(answers.tensors())
    for row in rows.tolist():
        old, new = values[row].double(), now[row].double()
        scale = max(1.0, float(old[old.isfinite()].abs().max()) if old.isfinite().any() else 1.0)
        allowed = scale * (TOLERANCE + torch.finfo(now.dtype).eps)
        if row in answers.bad or not torch.allclose(old, new, rtol=0, atol=allowed):
            sample = job.fragment.sample_ids[row].as_py()
            worst = float((old - new).abs().nan_to_num(torch.inf).max())
            raise TeacherError(
                f"{target.name}: sample {sample!r} is answered otherwise than what is stored (by {worst:.3g}; "
                f"{allowed:.3g} is allowed), though nothing declared has changed; list what did under teachers.*.code"
            )


def _read(files: Files, shard: Shard, target: BuildTarget) -> tuple[torch.Tensor, np.ndarray]:
    """Read the values and `valid` of one shard, committed or not, with its blocks checked."""
    alone = Manifest(dump_manifest([LiveShard(shard, "train", 0, 0, 1, 0)]), shard.unit_key).shards_of(target.name)
    reader, first, rows = ShardReader(files, alone), np.zeros(shard.rows, np.int64), np.arange(shard.rows)
    columns = {
        c.name: FixedColumn(reader, c.name, c.dtype, c.shape).take(first, rows)
        for c in target.codec.columns
        if not c.companion
    }
    return target.codec.compared(columns), FlagColumn(reader, "valid").take(first, rows)
