"""The dense codec: every value, in one floating-point dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from softcache.codecs.base import Codec, Column
from softcache.codecs.temperature import Temperature, temper
from softcache.errors import CodecError, FormatError, TaskError
from softcache.tasks import TaskSpec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PROBS_SUM_TOLERANCE = 1e-2
BFLOAT16_NAN = 0x7FC0


@dataclass(frozen=True)
class DenseCodec(Codec):
    """Stores each value as `dtype`: `float32`, `float16` or `bfloat16` (as its 16 bits)."""

    name: ClassVar[str] = "dense"
    task: TaskSpec
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CodecError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPES)}")

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
        flat = values.detach().reshape(len(values), -1)
        if self.task.value_kind in (None, "logits") and self._fits(flat):
            return {}
        kinds = {"NaN": torch.isnan(flat), "+Inf": flat == torch.inf}
        if not self.task.allow_masked:
            kinds["-Inf (declare allow_masked if the teacher rules classes out)"] = flat == -torch.inf
        overflow = torch.isinf(flat.to(self.torch_dtype)) & torch.isfinite(flat)
        wider = {"float16": " (store bfloat16 or float32)", "bfloat16": " (store float32)", "float32": ""}[self.dtype]
        kinds[f"a value too large for {self.dtype}{wider}"] = overflow
        if self.task.value_kind == "probs":
            lost = (flat.to(self.torch_dtype).double() - flat.double()).abs()
            coarse = (flat > 0) & (lost > torch.finfo(self.torch_dtype).eps * flat.double())
            kinds[f"a probability too small for {self.dtype} (store float32, or give logits)"] = coarse
            off = (flat.float().sum(1) - 1).abs() > PROBS_SUM_TOLERANCE
            kinds["values declared probs that are negative or do not sum to 1"] = ((flat < 0).any(1) | off)[:, None]
        elif self.task.value_kind == "log_probs":
            off = torch.logsumexp(flat.float(), 1).abs() > PROBS_SUM_TOLERANCE
            kinds["values declared log_probs whose exponentials do not sum to 1"] = off[:, None]
        elif self.task.value_kind == "logits":
            kinds["every class is -Inf"] = (flat == -torch.inf).all(1, keepdim=True)
        found: dict[int, str] = {}
        for reason, where in kinds.items():
            for row in where.any(1).nonzero()[:, 0].tolist():
                found.setdefault(row, reason)
        return found

    def _fits(self, values: torch.Tensor) -> bool:
        """Whether all values are finite and stay so in the stored dtype, as nearly always: told in one pass."""
        low, high = torch.aminmax(values)
        limit = torch.finfo(self.torch_dtype).max
        return -limit <= float(low) and float(high) <= limit

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"values": self._bits(values.detach().to(self.torch_dtype))}

    def missing(self, rows: int) -> dict[str, torch.Tensor]:
        return {"values": self._bits(torch.full((rows, *self.task.shape), torch.nan, dtype=self.torch_dtype))}

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        stored = columns["values"]
        if self.dtype == "bfloat16":
            stored = stored.view(torch.bfloat16)
        return stored.view(-1, *self.task.shape)

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        if not self.task.has_temperature:
            raise TaskError(f"a {self.task.kind} target has no temperature; use .values")
        values = self.values(columns).float()
        return temper(values.log() if self.task.value_kind == "probs" else values, temperature)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], task: TaskSpec) -> DenseCodec:
        try:
            return cls(task, str(data["dtype"]))
        except (KeyError, CodecError) as e:
            raise FormatError(f"not a dense codec: {e}") from e

    def _bits(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(torch.uint16) if self.dtype == "bfloat16" else values
