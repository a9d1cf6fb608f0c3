"""`softcache verify`: whether a cache is what its commits say, and who signed it."""

from __future__ import annotations

import os

from softcache.audit.signed import add_signers
from softcache.audit.verification import Verification
from softcache.audit.verifier import Verifier
from softcache.errors import SoftcacheError
from softcache.store.files import connect

LEVELS = ("quick", "full")


def verify(
    url: str | os.PathLike[str], level: str = "full", *, signers: str | os.PathLike[str] | None = None
) -> Verification:
    """Check a cache and report every problem.

    `quick` checks the commits, their manifests, indexes and plans, and that every file exists with its size. `full`
    reads every byte: hashes, block checksums, keys, columns, values that no encoder writes, statistics, the index, the
    card, and whether fingerprints and unit keys are those of what they hash. If `signers`, an OpenSSH file of allowed
    signers, is given, one of them must have signed the newest commit.

    Raises IncompleteCache before the first commit, FormatError if there is no cache, UnsupportedVersion for a newer
    format; everything else is in the result. A target that this version does not know is a problem too: only a newer
    softcache can check its values.

    Examples:
        >>> verification = softcache.verify("runs/digits", level="quick")
        >>> verification.ok, verification.problems
        (True, [])
    """
    if level not in LEVELS:
        raise SoftcacheError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")
    files = connect(url)
    result = Verifier(files, level).run()
    if signers is not None and result.commit:
        add_signers(files, result, signers)
    return result
