"""The hidden codec: what the teacher's last layer reads, and that layer, stored once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from softcache.codecs.codec import Codec, CodecTraits, check_choice, check_integer, require_distribution
from softcache.codecs.columns import Column
from softcache.codecs.decoder import Columns, Decoder
from softcache.codecs.faults import faults_as
from softcache.codecs.quantized import decode_affine, encode_affine, range_faults
from softcache.codecs.tables import Pilot, TableSpec, columns_of
from softcache.codecs.temperature import Temperature, temper
from softcache.errors import CodecError
from softcache.tasks import TaskSpec

DTYPES = ("float16", "int8")
MAX_WIDTH = 2**20
TABLE = "output"


@dataclass(frozen=True)
class HiddenCodec(Codec):
    """Stores the `width` numbers that the teacher's last layer turns into logits, as `float16` or `int8`.

    The layer is the target's table, so that logits are computed again where they are needed: they are nearly the
    teacher's own, and take fewer bytes than one number for each class.
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
    def traits(self) -> CodecTraits:
        return CodecTraits(sees_logits=False, has_all_values=False)

    @property
    def given_shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def table_spec(self) -> TableSpec:
        return TableSpec(TABLE, {"weight": (*self.task.shape, self.width), "bias": self.task.shape}, self._make_table)

    def _make_table(self, pilot: Pilot) -> dict[str, torch.Tensor]:
        layer = pilot.output_layer()
        expected = (*self.task.shape, self.width)
        if tuple(layer["weight"].shape) != expected:
            raise CodecError(f"the teacher's last layer is {list(layer['weight'].shape)}; expected {list(expected)}")
        return {name: part.float() if part.dtype == torch.float64 else part for name, part in layer.items()}

    @property
    def value_columns(self) -> tuple[Column, ...]:
        if self.dtype == "float16":
            return (Column(name="hidden", dtype="float16", shape=(self.width,), missing=math.nan),)
        return (
            Column(name="hidden", dtype="uint8", shape=(self.width,), missing=0),
            Column(name="affine", dtype="float32", shape=(2,), missing=math.nan),
        )

    def finer(self) -> Iterator[HiddenCodec]:
        if self.dtype == "int8":
            yield replace(self, dtype="float16")

    def faults(self, values: torch.Tensor) -> dict[int, str]:
        task = TaskSpec("features", (self.width,))
        if self.dtype == "float16":
            return faults_as(values, task, torch.float16)
        return range_faults(values) | faults_as(values, task, torch.float32)

    def encode(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.dtype == "float16":
            return {"hidden": values.detach().half()}
        codes, affine = encode_affine(values.detach().float())
        return {"hidden": codes, "affine": affine}

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        layer = columns_of(self.table, TABLE, self.name, values.device)
        bias = layer["bias"].float() if "bias" in layer else None
        return torch.nn.functional.linear(values.float(), layer["weight"].float(), bias)

    @property
    def decoder(self) -> HiddenDecoder:
        return HiddenDecoder(self.task, self)


@dataclass(frozen=True)
class HiddenDecoder(Decoder):
    """Reads hidden states and puts them through the teacher's last layer."""

    codec: HiddenCodec

    def values(self, columns: Columns) -> torch.Tensor:
        """Return the hidden states, [B, width]: float16, or decoded to float32."""
        if self.codec.dtype == "float16":
            return columns["hidden"]
        return decode_affine(columns["hidden"], columns["affine"])

    def log_probs(self, columns: Columns, temperature: Temperature) -> torch.Tensor:
        return temper(self.codec.logits(self.values(columns)), temperature)
