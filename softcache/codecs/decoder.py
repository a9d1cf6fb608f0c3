"""Decoders: from stored columns back to values, and to distributions at any temperature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from softcache.codecs.logits import as_logits
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, temper_each
from softcache.tasks import TaskSpec

Columns = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Decoder(ABC):
    """Turns the stored columns of a batch into values and distributions, on the device where the columns are.

    `task` is the task that the values answer. Each column is [B, *column.shape].
    """

    task: TaskSpec

    @abstractmethod
    def values(self, columns: Columns) -> torch.Tensor:
        """Return the stored values, rows first."""

    @abstractmethod
    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        """Return log p(T), float32 [B, *task.shape]. Raises TaskError if the task has no temperature."""

    def sparse_log_probs(self, columns: Columns, temperature: Temperature) -> SparseLogProbs | None:
        """Return log p(T) of the stored classes and of the other classes' mass; None if every class is stored."""
        return None

    def log_outcomes(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        """Return log p(T) and log(1 - p(T)) of each class independently, float32 [B, C, 2], both precise."""
        logits = as_logits(self.values(columns), self.task)
        return torch.stack([temper_each(logits, temperature), temper_each(-logits, temperature)], -1)

    def per_item(self, columns: Columns) -> tuple[Decoder, Columns]:
        """Return what decodes single items, and the columns of all items [N, ...]: for maps, of every place."""
        return self, columns

    def compared(self, columns: Columns) -> torch.Tensor:
        """Return numbers [B, N] that are nearly equal whenever the teacher's values were, however ties fell."""
        return self.values(columns)

    @property
    def covers_all(self) -> bool:
        """Whether every class gets some probability, be it as a share of the classes that are not stored."""
        return True

    @property
    def has_shape(self) -> bool:
        """Whether classes that are not stored have shares of their own of the remaining mass."""
        return False
