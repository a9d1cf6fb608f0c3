"""How a torch teacher computes: in which precision, and deterministically."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from softcache.settings import Settings
from softcache.teachers.protocol import Sequences

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Numerics(Settings):
    """The precision of a torch teacher's operations: `autocast` to a lower dtype, and `tf32` on devices that have it.

    Both are off by default, and both are part of the teacher's fingerprint.
    """

    autocast: Literal["off", "float16", "bfloat16"] = "off"
    tf32: bool = False

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Compute in this precision and without gradients on a device. Restores the previous settings afterwards."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        try:
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=self.tf32),
                torch.autocast(device.type, DTYPES.get(self.autocast), enabled=self.autocast != "off"),
            ):
                yield
        finally:
            torch.set_float32_matmul_precision(before)

    def kept(self, answers: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """Return answers; lazy ones (`Sequences`) are computed in the same precision when they are read."""
        return {
            name: replace(answer, chunks=self._later(answer.chunks, device))
            if isinstance(answer, Sequences)
            else answer
            for name, answer in answers.items()
        }

    def _later(self, chunks: Iterable[Any], device: torch.device) -> Iterator[Any]:
        remaining = iter(chunks)
        while True:
            with self.applied(device):
                chunk = next(remaining, None)
            if chunk is None:
                return
            yield chunk

    def to_json(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, for fingerprints."""
        return self.model_dump(exclude_defaults=True)
