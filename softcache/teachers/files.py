"""Hashes of a teacher's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from softcache.errors import TeacherError


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex. Raises TeacherError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as e:
        raise TeacherError(f"{path}: {e}") from e
