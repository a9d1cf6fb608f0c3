"""The dense codec: every value, in one floating-point dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.codec import Codec, check_choice
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import by_row, faults_as
from softcache.codecs.logits import log_probs_of, map_items
from softcache.codecs.temperature import Temperature

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BFLOAT16_NAN = 0x7FC0


@dataclass(frozen=True)
class DenseCodec(Codec):
    """Stores each value as `dtype`: `float32`, `float16` or `bfloat16` (as its 16 bits)."""

    name: ClassVar[str] = "dense"
    on_maps = "whole"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, tuple(DTYPES))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the stored values."""
        return DTYPES[self.dtype]

    @property
    def value_columns(self) -> tuple[Column, ...]:
        stored, missing = ("uint16", BFLOAT16_NAN) if self.dtype == "bfloat16" else (self.dtype, math.nan)
        return (Column(name="values", dtype=stored, shape=self.task.shape, missing=missing),)

    @property
    def item(self) -> DenseCodec:
        return replace(self, task=self.task.item)

    def finer(self) -> Iterator[DenseCodec]:
        for dtype in ("float16", "float32") if self.dtype == "bfloat16" else ("float32",):
            if dtype != self.dtype:
                yield replace(self, dtype=dtype)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        found = faults_as(values, self.task, self.torch_dtype)
        if self.task.value_kind == "probs":
            found = self._coarse(values) | found
        return found

    def _coarse(self, values: torch.Tensor) -> dict[int, str]:
        """Return the rows where a probability, or with sigmoid its distance to 1, would lose more than rounding."""
        given, stored = values.double(), values.to(self.torch_dtype).double()
        lost, eps = (stored - given).abs(), torch.finfo(self.torch_dtype).eps
        coarse = {"small": (values > 0) & (lost > eps * given)}
        if self.task.activation == "sigmoid":
            coarse["near 1"] = (values < 1) & (lost > 16 * eps * (1 - given))
        hint = f"for {self.dtype} ({'' if self.dtype == 'float32' else 'store float32, or '}give logits)"
        return by_row({f"a probability too {what} {hint}": where.flatten(1) for what, where in coarse.items()})

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        stored = values.detach().to(self.torch_dtype)
        return {"values": stored.view(torch.uint16) if self.dtype == "bfloat16" else stored}

    @property
    def decoder(self) -> DenseDecoder:
        return DenseDecoder(self.task, self.dtype)


@dataclass(frozen=True)
class DenseDecoder(Decoder):
    """Reads values that are stored as `dtype`."""

    dtype: str

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the stored values [B, *task.shape] in their own dtype."""
        stored = columns["values"]
        if self.dtype == "bfloat16":
            stored = stored.view(torch.bfloat16)
        return stored.view(len(stored), *self.task.shape)

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        return log_probs_of(self.values(columns), self.task, temperature)

    def per_item(self, columns: Columns) -> tuple[Decoder, Columns]:
        if not self.task.is_map:
            return self, columns
        return replace(self, task=self.task.item), {"values": map_items(columns["values"])}
