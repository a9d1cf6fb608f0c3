"""Measuring a codec while a build runs: what it answers against what the teacher said."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.jobs import Job
from softcache.builder.prepare.targets import BuildTarget
from softcache.codecs.fidelity import SHARE, Errors, better_settings, measure, wide_rows
from softcache.codecs.logits import as_logits, map_items
from softcache.errors import CodecError, name_some


def measure_answers(
    target: BuildTarget,
    values: torch.Tensor,
    encoded: Mapping[str, torch.Tensor],
    numbers: Array,
    rows: Array,
    job: Job,
) -> Errors | None:
    """Compare a fixed share of the items, and one item with widely spread logits, with what the codec answers.

    `values` [n, ...] are the teacher's, `encoded` what the codec made of them, `numbers` int64 [n] the items' numbers
    in the shard, `rows` int64 [n] the rows of the fragment that they belong to. The places of a map are items. Returns
    None where nothing can be measured. Raises CodecError if the error is larger than the target allows.
    """
    if not target.task.has_temperature or not target.codec.traits.can_be_measured or not len(numbers):
        return None
    codec, (_, columns) = target.codec.item, target.codec.decoder.per_item(encoded)
    share = SHARE
    if target.task.is_map:
        places, share, values = math.prod(target.task.shape[1:]), SHARE + 1, map_items(values)
        numbers, rows = (numbers[:, None] * places + np.arange(places)).ravel(), rows.repeat(places)
    has_range = codec.traits.sees_logits and codec.task.activation == "softmax"
    wide = wide_rows(as_logits(values, codec.task)).nonzero()[:, 0].tolist() if has_range else []
    picked = sorted({*np.flatnonzero(numbers % share == 0).tolist(), *wide[:1]})
    if not picked:
        return Errors(0, len(wide), {})
    errors = measure(codec, values[picked], {n: column[picked] for n, column in columns.items()}, len(wide))
    if target.max_error is not None and errors.worst > target.max_error:
        ids = name_some(job.names(dict.fromkeys(rows[picked].tolist())))
        raise CodecError(
            f"{target.name}: an error of {errors.worst:.2g} at one of the samples {ids}; max_error is "
            f"{target.max_error:g}; {better_settings(codec, values[picked], target.max_error)}"
        )
    return errors
