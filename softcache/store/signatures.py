"""Signatures of commits, made and checked by OpenSSH (docs/format.md, section 9.1).

A commit's hashes cover everything that it names, so that its own file is all that has to be signed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from softcache.errors import FormatError, IncompleteCache, IntegrityError, StorageError
from softcache.store.checksums import sha256
from softcache.store.commits import latest_number, read_commit
from softcache.store.documents import MAX_BYTES
from softcache.store.files import Files, connect
from softcache.store.layout import commit_path, signature_path, signatures_folder

NAMESPACE = "softcache"
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_SIGNATURES = 100  # that are looked at for one commit
_NAME = re.compile(r"(?P<number>[0-9]{20})-[0-9a-f]{64}\.sig\Z")


def sign(url: str | os.PathLike[str], key: str | os.PathLike[str], *, commit: int | None = None) -> str:
    """Sign a commit, by default the newest, and return the path of the signature inside the cache.

    `key` is the file of an OpenSSH private key, or of a public key whose private one an agent holds. OpenSSH asks for
    the passphrase, if there is one.

    Raises IncompleteCache before the first commit, FormatError if there is no such commit or it is not a valid one,
    StorageError if OpenSSH is not installed or cannot sign.

    Examples:
        >>> softcache.sign("runs/digits", "id_ed25519")[:14]
        'signatures/000'
    """
    files = connect(url)
    number = commit or latest_number(files)
    if not number:
        raise IncompleteCache(f"{files.url}: nothing is committed yet, so there is nothing to sign")
    data = _read_commit(files, number)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "commit")
        file.write_bytes(data)
        done = _ssh_keygen("sign", "-n", NAMESPACE, "-f", os.fspath(key), os.fspath(file))
        if done.returncode:
            raise StorageError(f"{os.fspath(key)}: OpenSSH cannot sign with it: {_said(done)}")
        signature = file.with_name("commit.sig").read_bytes()
    path = signature_path(number, sha256(signature))
    files.create(path, signature)
    return path


def signers_of(files: Files, number: int, allowed: str | os.PathLike[str]) -> list[str]:
    """Return who has signed a commit, of those whom the OpenSSH file `allowed` lists (ssh-keygen, "ALLOWED SIGNERS").

    Raises StorageError if that file or OpenSSH is missing.
    """
    if not os.path.isfile(allowed):
        raise StorageError(f"{os.fspath(allowed)}: no such file; it should list who may sign, as ssh-keygen describes")
    data, folder = _read_commit(files, number), signatures_folder(number)
    found: set[str] = set()
    names = [name for name in files.names(folder) if (m := _NAME.match(name)) and int(m["number"]) == number]
    if len(names) > MAX_SIGNATURES:
        raise StorageError(
            f"{files.url}/{folder}: {len(names):,} signatures of commit {number}; softcache looks at {MAX_SIGNATURES} "
            "at most: delete those that are nobody's"
        )
    for name in names:
        with tempfile.TemporaryDirectory() as there:
            signature = Path(there, "sig")
            try:
                signature.write_bytes(files.read(f"{folder}/{name}", MAX_SIGNATURE_BYTES))
            except (FormatError, StorageError, FileNotFoundError):
                continue  # anybody may put a file there: it must not hide the signatures beside it
            given = ("-s", os.fspath(signature), "-f", os.fspath(allowed))
            for signer in _ssh_keygen("find-principals", *given).stdout.decode(errors="replace").splitlines():
                if signer.startswith("!"):
                    continue  # a pattern of who may not sign
                if not _ssh_keygen("verify", "-n", NAMESPACE, "-I", signer, *given, data=data).returncode:
                    found.add(signer)
    return sorted(found)


def _read_commit(files: Files, number: int) -> bytes:
    """Return the bytes of a commit that is a valid one. Raises FormatError or IntegrityError."""
    try:
        commit, data = read_commit(files, number), files.read(commit_path(number), MAX_BYTES)
    except FileNotFoundError as e:
        raise FormatError(f"{files.url}: there is no commit {number}") from e
    if sha256(data) != commit.sha256:
        raise IntegrityError(f"{files.url}/{commit_path(number)}: it has changed while it was read")
    return data


def _ssh_keygen(command: str, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["ssh-keygen", "-Y", command, *arguments], input=data, capture_output=True, check=False)
    except FileNotFoundError as e:
        raise StorageError("signatures need OpenSSH (ssh-keygen), which is not installed") from e


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
