"""The quantized codec: every value in one byte, scaled to the range of its row."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.codec import Codec
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import faults_as
from softcache.codecs.logits import log_probs_of, map_items
from softcache.codecs.temperature import Temperature
from softcache.errors import CodecError

LEVELS = 254
MASKED = 255


@dataclass(frozen=True)
class QuantizedCodec(Codec):
    """Stores each value as `low + step * code`, with `low` and `step` of its row and 256 codes, one of them for -Inf.

    A value is off by at most a 508th of its row's range.
    """

    name: ClassVar[str] = "quantized"
    on_maps = "whole"

    def __post_init__(self) -> None:
        if self.task.value_kind == "probs":
            raise CodecError("codec quantized would round small probabilities to 0; give logits or log_probs")

    @property
    def value_columns(self) -> tuple[Column, ...]:
        return (
            Column(name="codes", dtype="uint8", shape=self.task.shape, missing=0),
            Column(name="affine", dtype="float32", shape=(2,), missing=math.nan),
        )

    @property
    def item(self) -> QuantizedCodec:
        return replace(self, task=self.task.item)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        return range_faults(values) | faults_as(values, self.task, torch.float32)

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        codes, affine = encode_affine(values.detach().float().flatten(1))
        return {"codes": codes.view(len(codes), *self.task.shape), "affine": affine}

    @property
    def decoder(self) -> QuantizedDecoder:
        return QuantizedDecoder(self.task)


@dataclass(frozen=True)
class QuantizedDecoder(Decoder):
    """Reads values from codes and the scale of each row."""

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the values [B, *task.shape], float32."""
        codes = columns["codes"]
        return decode_affine(codes.flatten(1), columns["affine"]).view(len(codes), *self.task.shape)

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        return log_probs_of(self.values(columns), self.task, temperature)

    def per_item(self, columns: Columns) -> tuple[Decoder, Columns]:
        if not self.task.is_map:
            return self, columns
        codes = map_items(columns["codes"])
        affine = columns["affine"].repeat_interleave(len(codes) // max(len(columns["codes"]), 1), 0)
        return replace(self, task=self.task.item), {"codes": codes, "affine": affine}


def range_faults(values: torch.Tensor) -> dict[int, str]:
    """Return the rows of `values` [B, ...] whose range is no float32 number, and why they cannot be stored."""
    limit = torch.finfo(torch.float32).max
    low, high = torch.aminmax(values.detach()) if values.numel() else (values.new_zeros(()),) * 2
    if float(high) - float(low) <= limit:
        return {}
    flat = values.detach().double().flatten(1)
    ruled_out = flat == -torch.inf
    spread = flat.masked_fill(ruled_out, -torch.inf).amax(1) - flat.masked_fill(ruled_out, torch.inf).amin(1)
    wide = ((spread > limit) & spread.isfinite()).nonzero()[:, 0].tolist()
    return dict.fromkeys(wide, "values too far apart for 256 steps in float32 (store dense float32)")


def encode_affine(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of float32 values [B, N], uint8 [B, N], and each row's lowest value and step, float32 [B, 2]."""
    masked = values == -torch.inf
    low = values.masked_fill(masked, torch.inf).amin(1, keepdim=True)
    # Divide before subtracting: the difference of two float32 numbers may be too large for float32.
    step = values.amax(1, keepdim=True) / LEVELS - low / LEVELS
    codes = ((values - low) / step.clamp(min=torch.finfo(step.dtype).tiny)).round().clamp(0, LEVELS)
    return codes.nan_to_num(0.0).masked_fill(masked, MASKED).to(torch.uint8), torch.cat([low, step], 1)


def decode_affine(codes: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Return the values of codes [B, N], float32."""
    low, step = affine.unbind(1)
    return (low[:, None] + step[:, None] * codes.float()).masked_fill(codes == MASKED, -torch.inf)
