"""How much memory a piece of work takes."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_ONLY = "5"


class PeakMemory:
    """Measures by how many bytes this process grows at most in a `with` block, or on a GPU, the memory allocated there.

    Read the result from `grown`. It is None if the system does not report it (only Linux does).
    """

    def __init__(self, device: str) -> None:
        self.grown: int | None = None
        self._gpu = torch.device(device).type == "cuda"
        self._before: int | None = None

    def __enter__(self) -> Self:
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        try:
            _RESET.write_text(_PEAK_ONLY)
            self._before = _status("VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        peak = torch.cuda.max_memory_allocated() if self._gpu else _status("VmHWM")
        if peak is not None and self._before is not None:
            self.grown = max(peak - self._before, 0)


def _status(name: str) -> int | None:
    """Return a figure of this process's memory in bytes; None if the system does not report it."""
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])
