"""The hidden codec: what the teacher's last layer reads, and that layer stored once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.base import (
    Codec,
    Column,
    Pilot,
    check_choice,
    check_integer,
    require_distribution,
    table_columns,
)
from softcache.codecs.faults import faults_as
from softcache.codecs.quantized import decode_affine, encode_affine
from softcache.codecs.temperature import Temperature, temper
from softcache.errors import CodecError
from softcache.tasks import TaskSpec

DTYPES = ("float16", "int8")
MAX_WIDTH = 2**20


@dataclass(frozen=True)
class HiddenCodec(Codec):
    """Stores the `width` numbers that the teacher's last layer turns into logits, as `float16` or `int8`.

    The layer is the target's table, so that logits are made again where they are needed: nearly what the teacher said,
    in fewer bytes than classes have.
    """

    name: ClassVar[str] = "hidden"
    on_maps = "never"
    width: int = 0
    dtype: str = "float16"

    def __post_init__(self) -> None:
        require_distribution(self)
        check_integer("width", self.width, 1, MAX_WIDTH)
        check_choice("dtype", self.dtype, DTYPES)
        if self.task.value_kind != "logits":
            raise CodecError(f"codec hidden gives logits, not {self.task.value_kind}")

    @property
    def given_shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def sees_logits(self) -> bool:
        return False

    @property
    def table_name(self) -> str:
        return "output"

    @property
    def has_all_values(self) -> bool:
        return False

    @property
    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (*self.task.shape, self.width), "bias": self.task.shape}

    def make_table(self, pilot: Pilot) -> dict[str, torch.Tensor]:
        layer = pilot.output_layer()
        expected = (*self.task.shape, self.width)
        if tuple(layer["weight"].shape) != expected:
            raise CodecError(f"the teacher's last layer is {list(layer['weight'].shape)}; expected {list(expected)}")
        return {name: part.float() if part.dtype == torch.float64 else part for name, part in layer.items()}

    @property
    def value_columns(self) -> tuple[Column, ...]:
        if self.dtype == "float16":
            return (Column("hidden", "float16", (self.width,), math.nan),)
        return Column("hidden", "uint8", (self.width,), 0), Column("affine", "float32", (2,), math.nan)

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        dtype = torch.float16 if self.dtype == "float16" else torch.float32
        return faults_as(values, TaskSpec("features", (self.width,)), dtype)

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.dtype == "float16":
            return {"hidden": values.detach().half()}
        codes, affine = encode_affine(values.detach().float())
        return {"hidden": codes, "affine": affine}

    def finer(self) -> Iterator[HiddenCodec]:
        if self.dtype == "int8":
            yield replace(self, dtype="float16")

    def values(self, columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the hidden numbers, [B, width]: float16, or decoded float32."""
        if self.dtype == "float16":
            return columns["hidden"]
        return decode_affine(columns["hidden"], columns["affine"])

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        layer = table_columns(self, values.device)
        bias = layer["bias"].float() if "bias" in layer else None
        return torch.nn.functional.linear(values.float(), layer["weight"].float(), bias)

    def log_probs(self, columns: Mapping[str, torch.Tensor], temperature: Temperature) -> torch.Tensor:
        return temper(self.logits(self.values(columns)), temperature)
