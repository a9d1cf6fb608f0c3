"""How commands print: text or JSON, and errors with their exit codes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, TextIO

import click

from softcache.builder.signals import READER
from softcache.errors import SoftcacheError

_STDOUT: ContextVar[TextIO | None] = ContextVar("_STDOUT", default=None)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add option `--json`, and turn errors into a message and an exit code."""

    @wraps(command)
    def run(*arguments: Any, as_json: bool, **options: Any) -> None:
        if sys.stderr is None:  # closed by whoever has started this
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        logging.basicConfig(format="softcache: %(message)s", level=logging.WARNING, stream=sys.stderr)
        try:
            with _only_json() if as_json else contextlib.nullcontext():
                command(*arguments, as_json=as_json, **options)
        except SoftcacheError as e:
            if as_json:
                print_json({"error": {"kind": type(e).__name__, "message": str(e)}})
            say(f"softcache: {type(e).__name__}: {e}", err=True)
            sys.exit(e.exit_code)
        except click.ClickException:
            raise  # wrong usage: click says how it is meant
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe is gone
        except Exception as e:
            if os.environ.get("SOFTCACHE_TRACEBACK"):
                raise
            say(
                f"softcache: unexpected {type(e).__name__}: {e}\nThis is a bug in softcache or in the recipe's code; "
                "set SOFTCACHE_TRACEBACK=1 to see the traceback",
                err=True,
            )
            sys.exit(1)
        except KeyboardInterrupt:
            say("softcache: interrupted; run the same command again to continue", err=True)
            if any(thread.name == READER for thread in threading.enumerate()):
                sys.stdout.flush()
                os._exit(3)  # somebody's `preprocess` still runs, and may be in torch: an orderly exit would abort
            sys.exit(3)

    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(run)


@contextlib.contextmanager
def _only_json() -> Iterator[None]:
    """Keep stdout for `print_json`: what a teacher prints goes to stderr."""
    token = _STDOUT.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _STDOUT.reset(token)


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or several. What a terminal would obey stands there as an escape: a cache may be anyone's."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    click.echo(shown, err=err)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, sort_keys=True, default=str), file=_STDOUT.get())


def print_table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> None:
    """Print a table. Columns of numbers are aligned right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *texts]) for i in range(len(header))]
    right = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(header))]
    for line in [list(header), *texts]:
        cells = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
        say("  ".join(cells).rstrip())


def human_bytes(count: float) -> str:
    """Return a size in bytes as text, such as `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 1 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
