"""`softcache verify`: whether a cache is what its commits say, and who signed it."""

from __future__ import annotations

import os

from softcache.audit.verification import Problem, Verification
from softcache.errors import SoftcacheError
from softcache.store.files import connect
from softcache.store.layout import commit_path
from softcache.store.signatures import signers_of
from softcache.store.state import read_state

LEVELS = ("signature", "quick", "full")


def verify(
    url: str | os.PathLike[str], level: str = "full", *, signers: str | os.PathLike[str] | None = None
) -> Verification:
    """Check a cache and report every problem.

    `signers` is an OpenSSH file of allowed signers. If it is given, one of them must have signed the newest commit. The
    level `signature` checks that alone, in the same time for any size: a commit's hashes cover all that it names, and
    are compared when it is read.

    `quick` checks the commits, their manifests, indexes and plans, and that every file exists with its size. `full`
    reads every byte: hashes, block checksums, keys, columns, values that no encoder writes, statistics, the index, the
    card, and whether fingerprints and unit keys are those of what they hash.

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
    if level == "signature" and signers is None:
        raise SoftcacheError("level signature needs signers, the file of those who may sign")
    files = connect(url)
    if level == "signature":
        state = read_state(files)
        result = Verification(path=files.url, level=level, commit=state.commit.number)
    else:
        # Imported here because it imports torch, which takes longer than to check a signature.
        from softcache.audit.verifier import Verifier

        result = Verifier(files, level).run()
    if signers is not None and result.commit:
        result.signers = signers_of(files, result.commit, signers)
        if not result.signers:
            why = f"not signed by anyone whom {os.fspath(signers)} lists"
            result.problems.append(Problem(commit_path(result.commit), why))
    return result
