"""A disk before and after a power cut: what was done to it, and what it may hold then."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from softcache.store.files import local

FOLDER = "a folder"


class Event(NamedTuple):
    """One operation on a path below the disk's top; `to` is the new name of a link or a replacement."""

    what: str
    path: str
    to: str = ""
    data: bytes = b""


class Trace:
    """Does what `store.files.local` asks of the system, and records each operation in order."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self._top, self._lock = str(top), threading.RLock()
        for what in ("mkdir", "link", "unlink", "replace", "fsync"):
            monkeypatch.setattr(os, what, self._traced(what, getattr(os, what)))
        monkeypatch.setattr(local, "open", self._open, raising=False)

    def do(self, what: str, act: Callable[[], Any], path: Any, to: Any = "", data: bytes = b"") -> Any:
        names = [os.path.relpath(p, self._top) if p != "" else "" for p in (path, to)]
        with self._lock:
            done = act()
            if not names[0].startswith(".."):
                self.events.append(Event(what, *names, data))
            return done

    def _traced(self, what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def traced(first: Any, second: Any = "", *rest: Any, **options: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if what == "fsync" else os.fspath(first)
            to = os.fspath(second) if what in ("link", "replace") else ""
            given = (first, second, *rest) if second != "" else (first,)
            return self.do(what, lambda: real(*given, **options), path, to)

        return traced

    def _open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if "b" in mode and "r" in mode:
            return open(path, mode, **options)
        return Written(self, path, self.do("create", lambda: open(path, mode, **options), path))


class Written:
    """A file that is being written: its bytes reach the system when it is flushed, or else when it is closed."""

    def __init__(self, trace: Trace, path: Any, file: Any) -> None:
        self._trace, self._path, self._file, self._held = trace, path, file, b""
        self.fileno, self.write = file.fileno, self._hold

    def _hold(self, data: bytes) -> None:
        self._held += data

    def flush(self) -> None:
        def write() -> None:
            self._file.write(self._held)
            self._file.flush()

        self._trace.do("write", write, self._path, data=self._held)
        self._held = b""

    def __enter__(self) -> "Written":
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            self.flush()
        self._file.close()


@dataclass(eq=False)
class Inode:
    """A file's contents: the first is certain, the last is what a process reads."""

    contents: list[bytes] = field(default_factory=lambda: [b""])


class Disk:
    """What a POSIX disk may hold. Each name has the values that it may have: the first at the last fsync of its folder,
    the last as a process sees it now. A name that is not listed, like one that is None, is not there."""

    def __init__(self) -> None:
        self.names: dict[str, list[Any]] = {".": [FOLDER]}

    def apply(self, event: Event) -> None:
        now = self.names.get(event.path, [None])[-1]
        if event.what in ("mkdir", "create"):
            self._set(event.path, FOLDER if event.what == "mkdir" else Inode())
        elif event.what == "write":
            now.contents.append(now.contents[-1] + event.data)
        elif event.what == "fsync" and isinstance(now, Inode):
            del now.contents[:-1]
        elif event.what == "fsync":
            for name in (n for n in self.names if folder_of(n) == event.path and n != "."):
                del self.names[name][:-1]
        if event.what in ("link", "replace"):
            self._set(event.to, now)
        if event.what in ("unlink", "replace"):
            self._set(event.path, None)

    def _set(self, name: str, value: Any) -> None:
        self.names.setdefault(name, [None]).append(value)

    def certain(self, path: str) -> bytes | None:
        """Return a file's content if a power cut can no longer remove it, else None."""
        values = self.names.get(path, [None])
        folders = [self.names.get(p, [None, None]) for p in ancestors(path)]
        if not isinstance(values[0], Inode) or any(len(v) > 1 for v in (values, values[0].contents, *folders)):
            return None
        return bytes(values[0].contents[0])

    def write(self, top: Path, name: Callable[[list[Any]], Any], content: Callable[[list[bytes]], bytes]) -> None:
        """Write to a folder what is there after a power cut that leaves one value of each name and each content."""
        for path in sorted(self.names, key=lambda p: p.count("/")):
            value = name(self.names[path])
            if value is not None and (top / path).parent.is_dir():
                (top / path).mkdir() if value is FOLDER else (top / path).write_bytes(content(value.contents))


def folder_of(path: str) -> str:
    return os.path.dirname(path) or "."


def ancestors(path: str) -> Iterator[str]:
    while path != ".":
        yield (path := folder_of(path))
