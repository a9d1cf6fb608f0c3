"""Batches that another thread reads ahead."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

from softcache.builder.signals import READER

T = TypeVar("T")
DEPTH, PATIENCE = 4, 2.0  # items, seconds
_END = object()


class Ahead(Generic[T]):
    """Runs an iterator in another thread, a few items ahead of whoever iterates over this.

    It is a context manager: on leaving, the thread finishes its item and no other begins. After Ctrl-C nobody waits for
    long, since a user's `preprocess` may hang; nor does the interpreter when it exits.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._is_over = items, threading.Event()
        self._ready: queue.Queue[tuple[T | object, BaseException | None]] = queue.Queue(DEPTH)
        self._thread = threading.Thread(target=self._run, name=READER, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        end = time.monotonic() + (PATIENCE if kind is KeyboardInterrupt else math.inf)
        while self._thread.is_alive() and time.monotonic() < end:
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(0.01)

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self._ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def _run(self) -> None:
        try:
            for item in self._items:
                self._ready.put((item, None))
                if self._is_over.is_set():
                    return
            self._ready.put((_END, None))
        except BaseException as e:  # noqa: BLE001 - raised again where the items are used
            self._ready.put((_END, e))
