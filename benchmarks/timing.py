"""Times taken side by side: the contestants run in alternation in one process, and medians are compared."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from statistics import median

Work = Callable[[], object]


def alternate(contestants: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round; who begins moves on by one from round to round."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            began = time.perf_counter()
            contestants[name]()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """Run so many other processes that are busy all the time."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return how many times as fast as `base` a contestant was: the median over the rounds."""
    return median(b / a for a, b in zip(seconds[name], seconds[base], strict=True))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def machine() -> str:
    """Return the date and what this was measured on."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {pages * size / 2**30:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}"
    )
