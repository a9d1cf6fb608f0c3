"""`softcache verify --level signature`: who signed the newest commit of a cache."""

from __future__ import annotations

import os

from softcache.audit.verification import Problem, Verification
from softcache.store.files import Files, connect
from softcache.store.layout import commit_path
from softcache.store.signatures import signers_of
from softcache.store.state import read_state


def verify_signature(url: str | os.PathLike[str], signers: str | os.PathLike[str]) -> Verification:
    """Check that the newest commit is signed by one of `signers`, an OpenSSH file of allowed signers.

    This takes the same short time for a cache of any size. A commit's hashes cover all that it names, and are compared
    when it is read; `verify` compares them all now.

    Raises IncompleteCache before the first commit, FormatError if there is no cache, StorageError if the file or
    OpenSSH is missing.

    Examples:
        >>> softcache.verify_signature("runs/digits", "allowed_signers").problems[0].what
        'not signed by anyone whom allowed_signers lists'
    """
    files = connect(url)
    result = Verification(path=files.url, level="signature", commit=read_state(files).commit.number)
    add_signers(files, result, signers)
    return result


def add_signers(files: Files, result: Verification, signers: str | os.PathLike[str]) -> None:
    """Add who has signed the commit that was verified, or that nobody has, to the result."""
    result.signers = signers_of(files, result.commit, signers)
    if not result.signers:
        why = f"not signed by anyone whom {os.fspath(signers)} lists"
        result.problems.append(Problem(commit_path(result.commit), why))
