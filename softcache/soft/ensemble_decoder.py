"""What an ensemble answers: the mean of its members' distributions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from softcache.codecs import Decoder, Temperature
from softcache.errors import TaskError
from softcache.soft.means import MEANS
from softcache.soft.members import items_of_each, member_columns


@dataclass(frozen=True)
class EnsembleDecoder(Decoder):
    """Averages its members' probabilities; the positive `weights` add up to 1."""

    members: tuple[Decoder, ...]
    weights: tuple[float, ...]
    mean: str

    def __post_init__(self) -> None:
        if self.mean == "geometric" and not self.covers_all:
            raise TaskError(
                "a geometric mean needs each member's probability of every class, and a member stores sampled classes; "
                "use mean='arithmetic'"
            )

    @property
    def covers_all(self) -> bool:
        return all(member.covers_all for member in self.members)

    def per_item(self, columns: Mapping[str, torch.Tensor]) -> tuple[Decoder, Mapping[str, torch.Tensor]]:
        """Return the ensemble of the members' decoders of single items, and their columns."""
        members, items = items_of_each(self.members, columns)
        return replace(self, task=members[0].task, members=tuple(members)), items

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the values of the K members, [B, K, ...]. Raises TaskError if their shapes differ."""
        each = [m.values(member_columns(columns, i)) for i, m in enumerate(self.members)]
        if len({values.shape for values in each}) > 1:
            raise TaskError(
                "the ensemble's members are stored in different codecs, so their values have no common shape"
            )
        return torch.stack(each, dim=1)

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return the log of the mean of the members' p(T) (Hinton et al. 2015, section 1)."""
        if self.task.activation == "sigmoid":
            return self.log_outcomes(columns, temperature)[..., 0]
        each = [m.log_probs(member_columns(columns, i), temperature) for i, m in enumerate(self.members)]
        return MEANS[self.mean](each, self.weights, 1)

    def log_outcomes(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return the logs of the means of the members' p(T) and 1 - p(T), a distribution for each class."""
        each = [m.log_outcomes(member_columns(columns, i), temperature) for i, m in enumerate(self.members)]
        return MEANS[self.mean](each, self.weights, -1)
