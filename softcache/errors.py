"""Every error that softcache raises on purpose.

One tree under `SoftcacheError`. Each class carries the exit code that the command line gives for it; each message
says what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SoftcacheError(Exception):
    """The root of the tree."""

    exit_code = 1


class RecipeError(SoftcacheError):
    """A recipe is wrong. `problems` holds every problem found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class MissingExtra(SoftcacheError):
    """An optional dependency is needed and not installed."""

    exit_code = 2


class TransferSetError(SoftcacheError):
    """The transfer set cannot be used: empty, a missing column, a sample that cannot be decoded."""


class AugmentationError(SoftcacheError):
    """A transform cannot be used: it cannot be replayed, or what it makes cannot be checked or stored."""


class TeacherError(SoftcacheError):
    """A teacher cannot be loaded, or answers wrongly."""


class TaskError(SoftcacheError):
    """Something is asked of a target that its task does not have."""


class UnknownTarget(TaskError, KeyError):
    """No target, or more than one, is meant by a name."""

    __str__ = Exception.__str__


class CodecError(SoftcacheError):
    """Values cannot be stored in the chosen codec or dtype."""


class FormatError(SoftcacheError):
    """What lies on disk is not a softcache cache, or not a valid one."""


class IntegrityError(FormatError):
    """Stored bytes are not those that were written."""


class UnsupportedVersion(FormatError):
    """The cache needs a newer softcache."""

    exit_code = 4


class IncompatibleTarget(SoftcacheError):
    """A stored target was made by another teacher, task or codec than the recipe's."""

    exit_code = 4


class AlignmentError(SoftcacheError):
    """Samples and stored rows do not match: missing, duplicate or changed keys."""


class CommitConflict(SoftcacheError):
    """Another writer published something that this commit contradicts."""


class CommitStateUnknown(SoftcacheError):
    """The store did not say whether a commit was published, and cannot be asked."""

    exit_code = 5


class IncompleteCache(SoftcacheError):
    """A build has begun and nothing is committed yet, or a build was interrupted. It can be resumed."""

    exit_code = 3


class StorageError(SoftcacheError):
    """The storage refused: permissions, space, credentials, network."""

    exit_code = 5


def counted(count: int, noun: str) -> str:
    """Return `1 sample`, `2,000 samples`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name_some(items: Iterable[object], limit: int = 5) -> str:
    """Return the first few of `items`, and how many there are in all: `'a', 'b' and 3 more`."""
    items = list(items)
    shown = ", ".join(repr(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit:,} more"
