"""Every error that softcache raises on purpose.

All of them derive from `SoftcacheError`. Each class carries the exit code that the command line returns for it. Each
message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SoftcacheError(Exception):
    """The base class of every softcache error. Exit code 1."""

    exit_code = 1


class RecipeError(SoftcacheError):
    """A recipe is wrong. `problems` lists every problem found, one line each. Exit code 2."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class MissingExtra(SoftcacheError):
    """An optional dependency is needed but not installed. Exit code 2."""

    exit_code = 2


class TransferSetError(SoftcacheError):
    """The transfer set cannot be used: it is empty, lacks a column, or has samples that cannot be read. Exit code 1."""


class AugmentationError(SoftcacheError):
    """A transform cannot be used: its views cannot be replayed, checked or stored. Exit code 1."""


class TeacherError(SoftcacheError):
    """A teacher cannot be loaded, or its answers are wrong. Exit code 1."""


class TaskError(SoftcacheError):
    """A target was asked for something that its task does not have. Exit code 1."""


class UnknownTarget(TaskError, KeyError):
    """A name matches no target, or more than one. Exit code 1."""

    __str__ = Exception.__str__


class CodecError(SoftcacheError):
    """Values cannot be stored in the chosen codec or dtype. Exit code 1."""


class FormatError(SoftcacheError):
    """The files on disk are not a softcache cache, or not a valid one. Exit code 1."""


class IntegrityError(FormatError):
    """Stored bytes are missing, or differ from what was written. Exit code 1."""


class UnsupportedVersion(FormatError):
    """The cache needs a newer softcache. Exit code 4."""

    exit_code = 4


class IncompatibleTarget(SoftcacheError):
    """A stored target was made with a different teacher, task or codec from the recipe's. Exit code 4."""

    exit_code = 4


class AlignmentError(SoftcacheError):
    """Samples and stored rows do not match: missing, duplicate or changed keys. Exit code 1."""


class CommitConflict(SoftcacheError):
    """Another writer published something that this commit contradicts. Exit code 1."""


class CommitStateUnknown(SoftcacheError):
    """The storage failed during a commit, and cannot say whether the commit was published. Exit code 5."""

    exit_code = 5


class IncompleteCache(SoftcacheError):
    """A build has begun but nothing is committed yet, or a build was interrupted. It can be resumed. Exit code 3."""

    exit_code = 3


class StorageError(SoftcacheError):
    """The storage refused an operation: permissions, space, credentials, network. Exit code 5."""

    exit_code = 5


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 sample`, `2,000 samples`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name_some(items: Iterable[object], limit: int = 5) -> str:
    """Return the first few of `items`, and how many more there are: `'a', 'b' and 3 more`."""
    items = list(items)
    shown = ", ".join(repr(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit:,} more"
