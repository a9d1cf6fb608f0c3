"""The sampled codec: classes drawn from the teacher's distribution (Anshumann et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from softcache.codecs.bits import (
    INFINITE_CODE,
    LAST_CODE,
    MISSING_CODE,
    decode_gaps,
    encode_gaps,
    id_columns,
    id_contradictions,
    pack_ids,
    read_ids,
    stored_ids,
)
from softcache.codecs.codec import Codec, CodecTraits, check_integer, require_distribution
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import faults_as
from softcache.codecs.logits import as_logits
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, inverse_temperatures
from softcache.errors import CodecError

MAX_DRAWS = 255
_GOLDEN = 0.6180339887498949
_HASHED = 8


@dataclass(frozen=True)
class SampledCodec(Codec):
    """Stores `draws` classes drawn from the teacher's distribution at the temperature `proposal`, with their logits.

    p(T) is estimated by weighting each class by its count and by p(T) / p(proposal). The draws are systematic: their
    places in the cumulative distribution are evenly spaced. The first place depends only on the row, so that each class
    is expected as often as its probability says, and encoding a row again gives the same columns.
    """

    name: ClassVar[str] = "sampled"
    draws: int = 50
    proposal: float = 1.0

    def __post_init__(self) -> None:
        require_distribution(self)
        check_integer("draws", self.draws, 1, MAX_DRAWS)
        if type(self.proposal) not in (int, float) or not 0.05 <= self.proposal <= 100:
            raise CodecError(f"proposal is {self.proposal!r}; expected a temperature from 0.05 to 100")

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return self.task.shape[0]

    @property
    def traits(self) -> CodecTraits:
        return CodecTraits(has_all_values=False)

    @property
    def value_columns(self) -> tuple[Column, ...]:
        return (
            *id_columns(self.draws, self.classes),
            Column(name="gaps", dtype="uint16", shape=(self.draws,), missing=MISSING_CODE),
            Column(name="counts", dtype="uint8", shape=(self.draws,), missing=0),
        )

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        return faults_as(values, self.task, torch.float32)

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = as_logits(values, self.task)
        logits = logits - logits.amax(1, keepdim=True)
        cumulative = (logits.double() / self.proposal).softmax(1).cumsum(1)
        start = _start(logits)
        places = (torch.arange(self.draws, device=logits.device) + start) / self.draws * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, places, right=True).clamp(max=self.classes - 1)
        is_new = torch.cat([drawn[:, :1] >= 0, drawn[:, 1:] != drawn[:, :-1]], 1)
        slot = is_new.cumsum(1) - 1
        ids = torch.zeros_like(drawn).scatter_(1, slot, drawn)
        counts = torch.zeros_like(drawn).scatter_add_(1, slot, torch.ones_like(drawn))
        gaps = encode_gaps((-logits.gather(1, ids)).masked_fill(counts == 0, torch.inf))
        return pack_ids(ids, self.classes) | {"gaps": gaps, "counts": counts.to(torch.uint8)}

    def contradictions(self, columns: Columns) -> dict[str, torch.Tensor]:
        ids, counts = stored_ids(columns, self.classes), columns["counts"].to(torch.int64)
        gaps, used = columns["gaps"].to(torch.int64), counts > 0
        # Places that are not used count as classes beyond the last one, each another.
        others = self.classes + torch.arange(self.draws, device=ids.device)
        found = id_contradictions(torch.where(used, ids, others), self.classes + self.draws)
        found |= id_contradictions(ids, self.classes) | {"a class twice": found["a class twice"]}
        return found | {
            f"counts that do not add up to {self.draws}": counts.sum(1) != self.draws,
            "an unused place that holds something": (~used & ((ids != 0) | (gaps != INFINITE_CODE))).any(1),
            "a gap that is none": (used & (gaps > LAST_CODE)).any(1),
        }

    @property
    def decoder(self) -> SampledDecoder:
        return SampledDecoder(self.task, self)


@dataclass(frozen=True)
class SampledDecoder(Decoder):
    """Estimates distributions from the drawn classes."""

    codec: SampledCodec

    @property
    def covers_all(self) -> bool:
        return False

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the drawn classes' logits relative to the highest of all, float32 [B, draws], -inf where unused."""
        return -decode_gaps(columns["gaps"])

    def class_ids(self, columns: Columns) -> torch.Tensor:
        """Return the drawn classes, int64 [B, draws]; unused slots hold class 0."""
        return read_ids(columns, self.codec.classes)

    def sparse_log_probs(self, columns: Columns, temperature: Temperature) -> SparseLogProbs:
        """Return the estimate of log p(T), in which classes that were not drawn have no probability.

        Unused slots hold class 0 with -inf, besides class 0 itself if it was drawn.
        """
        values, counts = self.values(columns), columns["counts"].float()
        beta = inverse_temperatures(temperature, len(values), values.device)
        weights = torch.where(counts > 0, counts.log() + (beta - 1 / self.codec.proposal) * values, -torch.inf)
        return SparseLogProbs(
            self.class_ids(columns), weights.log_softmax(1), torch.full_like(weights[:, 0], -torch.inf)
        )

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        """Return the estimate of log p(T), float32 [B, C], -inf for classes that were not drawn."""
        ids, log_probs, _ = self.sparse_log_probs(columns, temperature)
        probs = torch.zeros(len(ids), self.codec.classes, device=ids.device).scatter_add_(1, ids, log_probs.exp())
        return probs.log().masked_fill_(log_probs[:, :1].isnan(), torch.nan)

    def compared(self, columns: Columns) -> torch.Tensor:
        counts = columns["counts"].float()
        return counts.new_zeros(len(counts), self.codec.classes).scatter_add_(
            1, self.class_ids(columns), counts / self.codec.draws
        )


def _start(logits: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each row, float64 [B, 1], from its highest logits, relative to the first."""
    highest, ids = logits.topk(min(_HASHED, logits.shape[1]), dim=1)
    factors = (2 * torch.arange(highest.shape[1], device=logits.device) + 1) ** 4
    mixed = ((ids * 31 + encode_gaps(-highest).to(torch.int64)) * factors).sum(1, keepdim=True)
    return (mixed.double() * _GOLDEN).remainder(1.0)
