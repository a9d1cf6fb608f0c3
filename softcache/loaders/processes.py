"""Runs of several processes: whether a loader gives each of them samples of its own."""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist

from softcache.errors import TaskError


def require_shards(loader: Any) -> None:
    """Raise TaskError if several processes train, and this loader seems to give all samples to each of them.

    A sampler or dataset shows that it gives parts: those of torch, Accelerate, Lightning and `datasets` know the number
    of processes. Of other iterables nothing is known.
    """
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        return
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = [loader, getattr(loader, "sampler", None), batch_sampler, getattr(loader, "dataset", None)]
    places += [getattr(batch_sampler, "sampler", None), getattr(batch_sampler, "batch_sampler", None)]
    if any(_is_shard(place) for place in places):
        return
    raise TaskError(
        f"{world} processes train, and each would get all samples of this {type(loader).__name__}: give it a "
        "DistributedSampler, join around accelerator.prepare(loader), or if each process does get samples of its own, "
        "say so with join(..., sharded=True)"
    )


def _is_shard(place: Any) -> bool:
    parts = [getattr(place, name, None) for name in ("num_replicas", "num_processes")]
    if any(isinstance(count, int) and count > 1 for count in parts):
        return True
    # A streaming dataset of Hugging Face after split_dataset_by_node, and Accelerate's prepared loaders.
    prepared = type(place).__name__ in ("DataLoaderShard", "DataLoaderDispatcher")
    return prepared or getattr(place, "_distributed", None) is not None


def refuse_dispatch() -> None:
    """Raise TaskError if Accelerate's main process is about to send parts of batches with soft targets to the others.

    It can send tensors only.
    """
    accelerate = sys.modules.get("accelerate.state")
    active = None if accelerate is None else accelerate.GradientState().active_dataloader
    if type(active).__name__ == "DataLoaderDispatcher":
        raise TaskError(
            "Accelerate's dispatch_batches sends tensors only, and this batch has soft targets: prepare the plain "
            "loader and join around it, softcache.join(accelerator.prepare(loader), ...), or set dispatch_batches=False"
        )
