"""What a generalist and its specialists answer together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from softcache.codecs import Decoder, Temperature
from softcache.errors import TaskError
from softcache.soft.combination import combine_groups
from softcache.soft.members import member_columns

ANSWERED = "answered"


@dataclass(frozen=True)
class SpecialistsDecoder(Decoder):
    """Combines the distributions of a generalist and of the specialists that know its `n` likeliest classes.

    The column `answered`, bool [B, S], says which of the S specialists have an answer.
    """

    generalist: Decoder
    specialists: tuple[Decoder, ...]
    n: int

    @property
    def covers_all(self) -> bool:
        return all(member.covers_all for member in (self.generalist, *self.specialists))

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Raise TaskError: what is stored are the values of several targets."""
        raise TaskError("a generalist and its specialists have no stored values in common; use .log_probs")

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        """Return log q(T), float32 [B, C], from the members' p(T); NaN where the generalist has no answer."""
        general = self.generalist.log_probs(member_columns(columns, 0), temperature).double().exp()
        answered = ~general.isnan().any(1, keepdim=True)
        mass = torch.where(answered, general, 1 / general.shape[1])
        groups = _groups(tuple(m.task.known or () for m in self.specialists), general.shape[1], general.device)
        active = groups.knows[:, mass.topk(self.n, dim=1).indices].any(-1).T & columns[ANSWERED] & answered
        dustbins = torch.zeros(active.shape, dtype=torch.float64, device=general.device)
        for i, specialist in enumerate(self.specialists):
            log_p = specialist.log_probs(member_columns(columns, i + 1), temperature)
            own = torch.where(active[:, i, None], log_p.double().exp(), 0.0)
            mass.index_add_(1, groups.known[i], own[:, :-1])
            dustbins[:, i] = own[:, -1]
        return torch.where(answered, groups.combine(mass, dustbins), torch.nan).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Groups:
    """The groups of C classes that lie in the same dustbins of S specialists.

    Attributes:
        known: the classes that each specialist knows, int64, in the order of its values.
        knows: the same as bool [S, C].
        group: int64 [C], the group of each class.
        sizes: float64 [G], how many classes each group has.
        within: float64 [S, G], 1 where a group is in a specialist's dustbin, otherwise 0.
    """

    known: tuple[torch.Tensor, ...]
    knows: torch.Tensor
    group: torch.Tensor
    sizes: torch.Tensor
    within: torch.Tensor

    def combine(self, mass: torch.Tensor, dustbins: torch.Tensor) -> torch.Tensor:
        """Return log q, float64 [B, C]: `mass` [B, C] is what all give to each class, `dustbins` is [B, S]."""
        sums = mass.new_zeros(len(mass), len(self.sizes)).index_add_(1, self.group, mass)
        q = combine_groups(sums, dustbins, self.sizes, self.within)
        # A group that has mass only through dustbins is shared evenly.
        shares = torch.where((sums > 0)[:, self.group], mass / sums[:, self.group], 1 / self.sizes[self.group])
        return (shares * q[:, self.group]).log()


@lru_cache(maxsize=64)
def _groups(known: tuple[tuple[int, ...], ...], classes: int, device: torch.device) -> _Groups:
    """Return the groups of classes for specialists that know some of them, by number."""
    knows = torch.zeros(len(known), classes, dtype=torch.bool)
    for row, own in zip(knows, known, strict=True):
        row[list(own)] = True
    patterns, group, sizes = torch.unique(~knows, dim=1, return_inverse=True, return_counts=True)
    return _Groups(
        known=tuple(torch.tensor(own, device=device) for own in known),
        knows=knows.to(device),
        group=group.to(device),
        sizes=sizes.double().to(device),
        within=patterns.double().to(device),
    )
