"""How a Trainer's samples become batches, whichever of its datasets they are from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from softcache.loaders.attach import AttachedDataset, collate
from softcache.loaders.packing import OnePack, PackedBatch, PackedDataset, collate_packs
from softcache.loaders.targets import SOFT
from softcache.loaders.views import ViewDataset

POSITION, DATASET = "position_in_softcache", "dataset_in_softcache"
# The columns that a Trainer must not remove.
OURS = (SOFT, POSITION, DATASET)


@dataclass
class Batches:
    """The data collator of a Trainer.

    Attributes:
        collator: the user's, or the Trainer's; it gets the samples without their soft targets.
        columns: the fields that it gets; None for all.
        datasets: those of which some trainers, as TRL's, have only positions: they take `datasets.Dataset`s alone.
    """

    collator: Callable[[Any], Any]
    columns: frozenset[str] | None = None
    datasets: list[Any] = field(default_factory=list)

    def positions_of(self, data: Any) -> Any:
        """Return a `datasets.Dataset` of the positions of a dataset."""
        import datasets

        known = [i for i, one in enumerate(self.datasets) if one is data]
        if not known:
            known = [len(self.datasets)]
            self.datasets.append(data)
        return datasets.Dataset.from_dict({POSITION: range(len(data)), DATASET: known * len(data)})

    def __call__(self, samples: Any) -> Any:
        """Return the batch of samples, with their soft targets if they have any."""
        if isinstance(samples, list) and samples and isinstance(samples[0], Mapping) and POSITION in samples[0]:
            data = self.datasets[samples[0][DATASET]]
            samples = data.__getitems__([sample[POSITION] for sample in samples])
        if isinstance(samples, PackedBatch) or (samples and isinstance(samples[0], OnePack)):
            return collate_packs(samples)
        return collate(samples, samples=self._collated)

    def _collated(self, samples: list[Any]) -> Any:
        """Return the batch of samples that have no soft targets any more."""
        columns = self.columns
        if columns is not None:
            samples = [
                {name: value for name, value in sample.items() if name in columns}
                if isinstance(sample, Mapping)
                else sample
                for sample in samples
            ]
        return self.collator(samples)


def has_soft_targets(data: Any) -> bool:
    """Whether a dataset is one of softcache."""
    return isinstance(data, (AttachedDataset, ViewDataset, PackedDataset))
