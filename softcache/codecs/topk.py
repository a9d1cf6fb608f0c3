"""The top-k codec: the k highest logits of a row, and a sketch of the others' mass at any temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.basis import SHAPE_ZERO, decode_shape, encode_shape, fit_basis
from softcache.codecs.bits import (
    FAR_STEPS,
    FARTHEST,
    INFINITE_CODE,
    MISSING_CODE,
    decode_gaps,
    encode_gaps,
    id_columns,
    id_contradictions,
    pack_ids,
    read_ids,
    stored_ids,
)
from softcache.codecs.codec import Codec, CodecTraits, check_choice, check_integer, require_distribution
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import faults_as
from softcache.codecs.logits import as_logits
from softcache.codecs.sketch import (
    BETA_MAX,
    EMPTY_CODE,
    LADDERS,
    STEP,
    count_at_least,
    decode_nodes,
    encode_nodes,
    tail_sums,
)
from softcache.codecs.sparse import SparseLogProbs
from softcache.codecs.tables import Pilot, TableSpec, columns_of
from softcache.codecs.temperature import Temperature, inverse_temperatures
from softcache.errors import CodecError, TaskError

MAX_K = 65_535
MAX_BASIS = 1_024
TABLE = "basis"
PILOT_ITEMS, PILOT_NUMBERS = 2_048, 2**27
TINY = torch.finfo(torch.float32).tiny
HALF = 2 * torch.finfo(torch.float16).eps


@dataclass(frozen=True)
class TopkCodec(Codec):
    """Stores the classes of the `k` highest logits, their gaps to the highest, and a tail sketch of `nodes` nodes.

    It answers at every T >= 0.5. With `basis`, this many numbers for each row and a table for all rows say how the
    tail's mass is spread over its classes; without it the mass is spread evenly. With `companions`, each row also has
    its entropy, its first class with its probability, and the tail's mass, all at T = 1, for people who read the shards
    without softcache.
    """

    name: ClassVar[str] = "topk"
    _: KW_ONLY
    k: int = 32
    nodes: int = 16
    basis: int = 0
    companions: bool = True

    def __post_init__(self) -> None:
        require_distribution(self)
        check_integer("k", self.k, 1, MAX_K)
        check_integer("basis", self.basis, 0, MAX_BASIS)
        if self.basis and self.task.allow_masked:
            raise CodecError("a basis would give probability to classes that are ruled out; drop basis or allow_masked")
        check_choice("nodes", self.nodes, tuple(LADDERS))
        check_choice("companions", self.companions, (True, False))

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return self.task.shape[0]

    @property
    def head(self) -> int:
        """How many classes are stored one by one."""
        return min(self.k, self.classes)

    @property
    def has_tail(self) -> bool:
        """Whether any class is left for the tail."""
        return self.classes > self.k

    @property
    def has_shape(self) -> bool:
        """Whether the tail's mass is spread over its classes by a basis, and not evenly."""
        return self.has_tail and self.basis > 0

    @property
    def traits(self) -> CodecTraits:
        return CodecTraits(has_all_values=False)

    @property
    def table_spec(self) -> TableSpec | None:
        return TableSpec(TABLE, {"basis": (self.classes, 1 + self.basis)}, self._make_table) if self.has_shape else None

    def _make_table(self, pilot: Pilot) -> dict[str, torch.Tensor]:
        values = pilot.values(min(PILOT_ITEMS, max(PILOT_NUMBERS // self.classes, self.basis + 1)))
        return {"basis": fit_basis(self.logits(values), self.basis)}

    def basis_on(self, device: torch.device) -> torch.Tensor:
        """Return the basis on a device, float16 [C, 1 + basis]. Raises CodecError if it was not given."""
        return columns_of(self.table, TABLE, self.name, device)["basis"]

    @property
    def value_columns(self) -> tuple[Column, ...]:
        found = [
            *id_columns(self.head, self.classes),
            Column(name="gaps", dtype="uint16", shape=(self.head - (not self.has_tail),), missing=MISSING_CODE),
        ]
        if self.has_tail:
            found.append(Column(name="sketch", dtype="uint16", shape=(self.nodes + 1,), missing=EMPTY_CODE))
        if self.has_shape:
            found.append(Column(name="shape", dtype="uint8", shape=(self.basis,), missing=SHAPE_ZERO))
            found.append(Column(name="shape_scale", dtype="float16", shape=(), missing=math.nan))
        if self.companions:
            found += [_companion("entropy"), _companion("top1", "int32", -1)]
            found += [_companion("top1_prob"), _companion("tail_mass")]
        return tuple(found)

    def finer(self) -> Iterator[TopkCodec]:
        for k in (self.k, 2 * self.k, 4 * self.k, 8 * self.k, 16 * self.k):
            for nodes in LADDERS:
                if nodes >= self.nodes and (k, nodes) != (self.k, self.nodes) and k <= min(MAX_K, self.classes):
                    yield replace(self, k=k, nodes=nodes)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        return faults_as(values, self.task, torch.float32)

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = as_logits(values, self.task)
        top, ids = logits.topk(self.head + self.has_tail, dim=1)
        gaps, ids = top[:, :1] - top[:, 1:], ids[:, : self.head]
        columns = pack_ids(ids, self.classes)
        if not self.has_tail:
            columns["gaps"] = encode_gaps(gaps)
            return columns | self._companions(columns, gaps.new_zeros(len(gaps)))
        anchor = encode_gaps(gaps[:, -1:], up=True)
        columns["gaps"] = torch.cat([encode_gaps(gaps[:, :-1]), anchor], 1)
        shift = top[:, :1] - decode_gaps(anchor).nan_to_num(posinf=0.0)
        ladder = LADDERS[self.nodes]
        sums, energies = tail_sums(logits, shift, ids, ladder, energies=self.companions)
        tail_mean = energies / sums[:, ladder.at_one].clamp(min=TINY)
        floor = top[:, :1] - FARTHEST
        count = count_at_least(logits, floor)
        near = logits if bool((count == self.classes).all()) else torch.maximum(logits, floor)
        count = count - count_at_least(top[:, : self.head], floor)
        columns["sketch"] = encode_nodes(torch.cat([count[:, None], sums], 1))
        if self.has_shape:
            columns["shape"], columns["shape_scale"] = encode_shape(near, top[:, :1], self.basis_on(logits.device))
        return columns | self._companions(columns, tail_mean)

    def _companions(self, columns: Columns, tail_mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the companions, with the tail's mean logit at T = 1 relative to the anchor, float32 [B]."""
        if not self.companions:
            return {}
        ids, log_head, log_tail = self.decoder.sparse_log_probs(columns, 1.0)
        head, tail = log_head.exp(), log_tail.exp()
        log_anchor = log_head[:, 0] - decode_gaps(columns["gaps"][:, -1])
        of_head = torch.where(head > 0, head * log_head, 0.0).sum(1)
        of_tail = torch.where(tail > 0, tail * (log_anchor + tail_mean), 0.0)
        return {
            "entropy": -(of_head + of_tail).half(),
            "top1": ids[:, 0].int(),
            "top1_prob": head[:, 0].half(),
            "tail_mass": tail.half(),
        }

    def contradictions(self, columns: Columns) -> dict[str, torch.Tensor]:
        ids, gaps = stored_ids(columns, self.classes), columns["gaps"].to(torch.int64)
        found = id_contradictions(ids, self.classes)
        found["gaps that are not in order"] = (gaps.diff(dim=1) < 0).any(1) | (gaps == MISSING_CODE).any(1)
        if self.has_tail:
            sketch = columns["sketch"].to(torch.int64)
            ruled_out, none_near = gaps[:, -1] == INFINITE_CODE, sketch[:, 0] == EMPTY_CODE
            # Relative to the anchor no class of the tail is higher, but for the anchor's rounding: 1 / 32 nats or less.
            most = encode_nodes(torch.tensor(float(self.classes - self.head))).to(torch.int64)
            high = (sketch > most + STEP * BETA_MAX // FAR_STEPS).any(1) | (sketch[:, 0] > most)
            found["a tail of more classes than are left"] = torch.where(
                ruled_out, (sketch != EMPTY_CODE).any(1), high & ~none_near
            )
        if self.has_shape:
            found["a scale of the tail's shape that is not finite"] = ~columns["shape_scale"].isfinite()
        return found | (self._companion_contradictions(columns, ids) if self.companions else {})

    def _companion_contradictions(self, columns: Columns, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return where companions are not those of the other columns. Of the entropy, the tail's part is bounded."""
        _, log_head, log_tail = self.decoder.sparse_log_probs(columns, 1.0)
        head, tail = log_head.exp(), log_tail.exp()
        log_anchor = log_head[:, 0] - decode_gaps(columns["gaps"][:, -1])
        least = -torch.where(head > 0, head * log_head, 0.0).sum(1)
        most = least + torch.where(tail > 0, tail * (math.log(max(self.classes - self.head, 1)) - log_tail), 0.0)
        least = least - torch.where(tail > 0, tail * log_anchor, 0.0)
        entropy = columns["entropy"].float()
        return {
            "top1 is not the first class": columns["top1"] != ids[:, 0],
            "top1_prob is not its probability": ~_near(columns["top1_prob"], head[:, 0]),
            "tail_mass is not that of the tail": ~_near(columns["tail_mass"], tail),
            "entropy is not that of the distribution": ~(
                (entropy >= least * (1 - HALF) - HALF) & (entropy <= most * (1 + HALF) + HALF)
            ),
        }

    @property
    def decoder(self) -> TopkDecoder:
        return TopkDecoder(self.task, self)


@dataclass(frozen=True)
class TopkDecoder(Decoder):
    """Reads the k highest logits, and the mass of the tail at any T >= 0.5."""

    codec: TopkCodec

    @property
    def has_shape(self) -> bool:
        return self.codec.has_shape

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the stored logits relative to the highest, float32 [B, k], highest first."""
        return -self._gaps(columns)[:, : self.codec.head]

    def class_ids(self, columns: Columns) -> torch.Tensor:
        """Return the stored classes, int64 [B, k]."""
        return read_ids(columns, self.codec.classes)

    def sparse_log_probs(self, columns: Columns, temperature: Temperature) -> SparseLogProbs:
        """Return log p(T) of the k classes and of the tail. Raises TaskError below T = 0.5 where there is a tail."""
        gaps = self._gaps(columns)
        beta = inverse_temperatures(temperature, len(gaps), gaps.device)
        heads = -beta * gaps[:, : self.codec.head]
        if self.codec.has_tail:
            tail = self._tail(columns["sketch"], gaps[:, -1], beta)
        else:
            tail = torch.full_like(gaps[:, 0], -torch.inf)
        total = torch.logaddexp(heads.logsumexp(1), tail)
        return SparseLogProbs(self.class_ids(columns), heads - total[:, None], tail - total)

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        """Return log p(T), float32 [B, C], the tail's mass spread over its classes by the basis, or evenly."""
        ids, heads, tail = self.sparse_log_probs(columns, temperature)
        if not self.codec.has_tail:
            return torch.full_like(heads, torch.nan).scatter_(1, ids, heads)
        if self.codec.has_shape:
            shares = decode_shape(columns["shape"], columns["shape_scale"], self.codec.basis_on(ids.device))
            anchor = self._gaps(columns)[:, -1:]
            shares = torch.minimum(shares, -anchor) * inverse_temperatures(temperature, len(ids), ids.device)
            shares = shares.scatter_(1, ids, -torch.inf)
            # A tail that is ruled out as a whole has no shares.
            shares += torch.where(tail == -torch.inf, 0.0, tail - shares.logsumexp(1))[:, None]
            return shares.scatter_(1, ids, heads)
        each = tail - math.log(self.codec.classes - self.codec.head)
        return each[:, None].expand(-1, self.codec.classes).scatter(1, ids, heads)

    def compared(self, columns: Columns) -> torch.Tensor:
        gaps = self._gaps(columns)
        return (
            -gaps[:, -1:].expand(-1, self.codec.classes).scatter(1, self.class_ids(columns), gaps[:, : self.codec.head])
        )

    def _gaps(self, columns: Columns) -> torch.Tensor:
        """Return the gaps of the k classes and, where there is a tail, of its anchor."""
        gaps = decode_gaps(columns["gaps"])
        return torch.cat([torch.where(gaps[:, :1].isnan(), torch.nan, 0.0), gaps], 1)

    def _tail(self, codes: torch.Tensor, anchor: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        """Return the log of the tail's sum relative to the highest logit, float32 [B]; `beta` is [1, 1] or [B, 1]."""
        if beta.numel() and float(beta.amax()) > BETA_MAX:
            raise TaskError(f"temperature {1 / float(beta.amax()):g}: a top-k target answers from T = 0.5 up")
        weights = LADDERS[self.codec.nodes].weights(beta[:, 0])
        return (decode_nodes(codes) * weights).sum(1) - beta[:, 0] * anchor


def _near(stored: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Whether float16 numbers are others, rounded."""
    return (stored.float() - exact).abs() <= HALF * exact.abs() + 1e-6


def _companion(name: str, dtype: str = "float16", missing: float | int = math.nan) -> Column:
    return Column(name=name, dtype=dtype, shape=(), missing=missing, companion=True)
