"""Builders and collectors of one cache that take turns: one storage operation at a time, in an order that a test draws.

Each actor has files of its own, whose every operation waits for its turn. Nothing else is changed: what runs is the
code that users run, threads included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softcache.store.files.local import LocalFiles

OPERATIONS = ("read", "size", "names", "walk", "create", "replace", "delete", "touch", "settle")


class Actor:
    """Someone who works with a cache, in a thread.

    `outcome` is what the work returned, or the exception that it raised; `next` is the operation that waits for a turn,
    and its path.
    """

    def __init__(self, name: str, root: Path, work: Callable[[LocalFiles], object]) -> None:
        self.name, self.outcome = name, None
        self.finished, self.next = False, ("", "")
        self._changed = threading.Condition()
        self._waiting, self._granted = 0, 0
        self.files = _files(root, self)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[LocalFiles], object]) -> None:
        try:
            self.outcome: Any = work(self.files)
        except Exception as e:  # noqa: BLE001 - it is what the test looks at
            self.outcome = e
        with self._changed:
            self.finished = True
            self._changed.notify_all()

    def gate(self, operation: str, path: object = "") -> None:
        """Wait for a turn."""
        with self._changed:
            self.next = (operation, str(path))
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._granted)
            self._granted -= 1

    def settle(self) -> None:
        """Wait until it is about to do something to the storage, or has finished."""
        with self._changed:
            self._changed.wait_for(lambda: self.finished or self._waiting > self._granted)

    def step(self) -> None:
        """Let it do one operation, and wait until it is about to do the next."""
        with self._changed:
            if not self.finished:
                self._waiting -= 1
                self._granted += 1
                self._changed.notify_all()
        self.settle()


def _files(root: Path, actor: Actor) -> LocalFiles:
    """Return files on whose every operation an actor waits for its turn."""

    def gated(name: str) -> Callable[..., object]:
        operation = getattr(LocalFiles, name)

        def act(self: LocalFiles, *arguments: object) -> object:
            actor.gate(name, *arguments[:1])
            found = operation(self, *arguments)
            return iter(list(found)) if isinstance(found, Iterator) else found

        return act

    kind = type("TurnFiles", (LocalFiles,), {name: gated(name) for name in OPERATIONS})
    files: LocalFiles = kind(str(root))
    return files


def take_turns(actors: list[Actor], turns: list[int]) -> list[str]:
    """Let actors move in an order; then let each finish. Return who moved, in order."""
    moved = []
    for actor in actors:
        actor.settle()
    for turn in turns:
        left = [actor for actor in actors if not actor.finished]
        if not left:
            break
        actor = left[turn % len(left)]
        actor.step()
        moved.append(actor.name)
    for actor in actors:
        while not actor.finished:
            actor.step()
    return moved
