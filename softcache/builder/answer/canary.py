"""Canaries: a few stored rows are answered again before unfinished work is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.jobs import Job
from softcache.builder.answer.predictor import Predictor
from softcache.builder.answer.sampling import answer_rows
from softcache.builder.answer.stored_answers import StoredShard, compared
from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.errors import TeacherError, name_some
from softcache.store.files import Files
from softcache.store.shards import Shard

CANARY_ROWS = 2
CANARY_ITEMS = 16
TOLERANCE = 1e-3


def check_canaries(
    files: Files,
    predictor: Predictor,
    target: BuildTarget,
    units: Sequence[Unit],
    positions: Mapping[int, Array],
    inventory: Inventory,
) -> None:
    """Answer a few rows of the first and the last finished fragment again and compare them with what is stored.

    Raises TeacherError if they differ by more than rounding: the teacher's answers depend on something undeclared.
    """
    shards = ((u.fragment, u.shard_in(inventory)) for u in units if u.name == target.name)
    done = [(fragment, shard) for fragment, shard in shards if shard is not None and shard.statistics["valid"]]
    for fragment, shard in {fragment.number: (fragment, shard) for fragment, shard in (*done[:1], *done[-1:])}.values():
        _check_fragment(files, predictor, target, Job(fragment, positions[fragment.number], [target]), shard)


def _check_fragment(files: Files, predictor: Predictor, target: BuildTarget, job: Job, shard: Shard) -> None:
    stored = StoredShard(files, shard, target)
    answered = np.flatnonzero(stored.valid)
    rows = np.unique(answered[np.linspace(0, len(answered) - 1, CANARY_ROWS).astype(int)])
    answers = answer_rows(predictor, job, rows.tolist())[target.name]
    columns, owners = stored.items(rows)
    now = answers.encoded()
    if not target.task.is_list:
        now = {name: column[rows] for name, column in now.items()}
    if any(len(now[name]) != len(column) for name, column in columns.items()):
        ids = name_some(job.names(rows.tolist()))
        raise TeacherError(
            f"{target.name}: samples {ids} have answers at other positions than the stored ones, though nothing "
            "declared has changed; list what did under teachers.*.code"
        )
    picked = np.unique(np.linspace(0, len(owners) - 1, CANARY_ITEMS).astype(int)) if len(owners) else owners
    for item in picked.tolist():
        row = int(owners[item])
        old = {name: column[[item]] for name, column in columns.items()}
        new = {name: now[name][[item]] for name in columns}
        _check_item(target, job, row, compared(target, old, new, stored.eps), is_bad=row in answers.bad)


def _check_item(
    target: BuildTarget,
    job: Job,
    row: int,
    compared: Iterator[tuple[str, torch.Tensor, torch.Tensor, float]],
    *,
    is_bad: bool,
) -> None:
    """Raise TeacherError if an item is bad now, or what is compared of it differs by more than rounding."""
    for what, old, new, eps in compared:
        scale = max(1.0, float(old[old.isfinite()].abs().max()) if old.isfinite().any() else 1.0)
        allowed = scale * (TOLERANCE + eps)
        if is_bad or not torch.allclose(old, new, rtol=0, atol=allowed):
            (sample,) = job.names([row])
            worst = float((old - new).abs().nan_to_num(torch.inf).max())
            raise TeacherError(
                f"{target.name}: {what} for sample {sample!r} differs from what is stored (by {worst:.3g}; "
                f"{allowed:.3g} is allowed), though nothing declared has changed; list what did under teachers.*.code"
            )
