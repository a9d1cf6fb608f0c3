"""The dense codec: every value, in one floating-point dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.base import Codec, Column, as_logits, check_choice, require_temperature
from softcache.codecs.faults import by_row, faults_as
from softcache.codecs.temperature import Temperature, temper

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BFLOAT16_NAN = 0x7FC0


@dataclass(frozen=True)
class DenseCodec(Codec):
    """Stores each value as `dtype`: `float32`, `float16` or `bfloat16` (as its 16 bits)."""

    name: ClassVar[str] = "dense"
    dtype: str = "float16"

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, tuple(DTYPES))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the stored values."""
        return DTYPES[self.dtype]

    @property
    def columns(self) -> tuple[Column, ...]:
        if self.dtype == "bfloat16":
            return (Column("values", "uint16", self.task.shape, BFLOAT16_NAN),)
        return (Column("values", self.dtype, self.task.shape, math.nan),)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        found = faults_as(values, self.task, self.torch_dtype)
        if self.task.value_kind == "probs":
            lost = (values.to(self.torch_dtype).double() - values.double()).abs()
            coarse = (values > 0) & (lost > torch.finfo(self.torch_dtype).eps * values.double())
            reason = f"a probability too small for {self.dtype} (store float32, or give logits)"
            found = by_row({reason: coarse}) | found
        return found

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        stored = values.detach().to(self.torch_dtype)
        return {"values": stored.view(torch.uint16) if self.dtype == "bfloat16" else stored}

    def finer(self) -> Iterator[DenseCodec]:
        for dtype in ("float16", "float32") if self.dtype == "bfloat16" else ("float32",):
            if dtype != self.dtype:
                yield replace(self, dtype=dtype)

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the stored values [B, *task.shape] in their own dtype."""
        stored = columns["values"]
        if self.dtype == "bfloat16":
            stored = stored.view(torch.bfloat16)
        return stored.view(len(stored), *self.task.shape)

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        require_temperature(self.task)
        return temper(as_logits(self.values(columns), self.task), temperature)
