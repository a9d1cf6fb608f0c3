"""The served codec: the k highest log-probabilities of an endpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from softcache.codecs.bits import id_columns, id_contradictions, pack_ids, read_ids, stored_ids
from softcache.codecs.codec import Codec, CodecTraits, check_integer, require_distribution
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import PROBS_SUM_TOLERANCE, by_row
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.temperature import Temperature, check_temperature
from softcache.errors import CodecError, TaskError

MAX_K = 65_535


@dataclass(frozen=True)
class ServedCodec(Codec):
    """Stores the `k` highest log-probabilities as an endpoint served them, float32.

    About the other classes the endpoint only says how much probability is left. So this codec answers only at T = 1: at
    any other temperature the mass of those classes depends on how it is spread.
    """

    name: ClassVar[str] = "served"
    on_maps = "never"
    k: int = 20

    def __post_init__(self) -> None:
        require_distribution(self)
        check_integer("k", self.k, 1, min(MAX_K, self.task.shape[0] - 1))
        if self.task.value_kind != "log_probs":
            raise CodecError(f"codec served stores log_probs, not {self.task.value_kind}")

    @property
    def given_shape(self) -> tuple[int, ...]:
        return (2, self.k)

    @property
    def traits(self) -> CodecTraits:
        return CodecTraits(sees_logits=False, can_be_measured=False, has_all_values=False)

    @property
    def value_columns(self) -> tuple[Column, ...]:
        log_p = Column(name="log_p", dtype="float32", shape=(self.k,), missing=math.nan)
        return *id_columns(self.k, self.task.shape[0]), log_p

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        """Return what is wrong with ids and log-probabilities, float64 [B, 2, k]."""
        ids, log_p = values.unbind(1)
        ordered = ids.sort(1).values
        strange = (ids != ids.round()) | (ids < 0) | (ids >= self.task.shape[0]) | ids.isnan()
        twice = torch.zeros_like(strange)
        twice[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        return by_row(
            {
                "a number that is no class": strange,
                "a class twice": twice,
                "a log-probability that is not finite": ~log_p.float().isfinite(),  # as it is stored
                "log-probabilities that add up to more than 1": (log_p.exp().sum(1) > 1 + PROBS_SUM_TOLERANCE)[:, None],
            }
        )

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        ids, log_p = values.detach().unbind(1)
        order = log_p.argsort(dim=1, descending=True, stable=True)
        return pack_ids(ids.gather(1, order).long(), self.task.shape[0]) | {"log_p": log_p.gather(1, order).float()}

    def contradictions(self, columns: Columns) -> dict[str, torch.Tensor]:
        log_p = columns["log_p"]
        return id_contradictions(stored_ids(columns, self.task.shape[0]), self.task.shape[0]) | {
            "log-probabilities that are not finite, or not in order": ~log_p.isfinite().all(1)
            | (log_p.diff(dim=1) > 0).any(1),
            "log-probabilities that add up to more than 1": log_p.double().exp().sum(1) > 1 + PROBS_SUM_TOLERANCE,
        }

    @property
    def decoder(self) -> ServedDecoder:
        return ServedDecoder(self.task, self)


@dataclass(frozen=True)
class ServedDecoder(Decoder):
    """Reads the served classes at T = 1."""

    codec: ServedCodec

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the log-probabilities, float32 [B, k], highest first."""
        return columns["log_p"]

    def sparse_log_probs(self, columns: Columns, temperature: Temperature) -> SparseLogProbs:
        """Return log p of the served classes, and of all others together. Raises TaskError unless T = 1."""
        t = check_temperature(temperature, len(columns["log_p"]))
        if bool((torch.as_tensor(t) != 1).any()):
            raise TaskError(
                "an endpoint's log-probabilities answer only at T = 1: the probability of the classes that it did not "
                "serve is not known at other temperatures"
            )
        log_p = columns["log_p"]
        tail = torch.log1p(-log_p.double().exp().sum(1).clamp(max=1)).float()
        return SparseLogProbs(read_ids(columns, self.task.shape[0]), log_p, tail)

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        """Return log p, float32 [B, C], with the rest spread evenly. Raises as `sparse_log_probs`."""
        ids, log_p, tail = self.sparse_log_probs(columns, temperature)
        classes = self.task.shape[0]
        each = tail - math.log(classes - self.codec.k)
        return each[:, None].expand(-1, classes).scatter(1, ids, log_p)

    def compared(self, columns: Columns) -> torch.Tensor:
        ids, log_p = read_ids(columns, self.task.shape[0]), columns["log_p"]
        return log_p.new_zeros(len(log_p), self.task.shape[0]).scatter(1, ids, log_p.exp())
