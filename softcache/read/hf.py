"""Targets as Hugging Face datasets."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from softcache.errors import MissingExtra
from softcache.read.arrow_tables import checked_files
from softcache.store.arrow import check_metadata
from softcache.store.files import Files
from softcache.store.live_shards import TargetShards


def to_dataset(files: Files, shards: TargetShards, split: str | None) -> Any:
    """Return a memory-mapped `datasets.Dataset` over a split's Arrow shards (all splits if None)."""
    try:
        import datasets
    except ImportError as e:
        raise MissingExtra("to_hf needs datasets: pip install 'softcache[hf]'") from e
    paths = []
    for reference, data in checked_files(files, shards, split):
        check_metadata(pa.ipc.read_schema(data), f"{files.url}/{reference.path}")
        paths.append(files.local(reference.path, reference.sha256, reference.bytes))
    name = None if split is None else datasets.NamedSplit(split)
    return datasets.concatenate_datasets([datasets.Dataset.from_file(path, split=name) for path in paths])
