"""Open the files of a cache at a path or URL."""

from __future__ import annotations

import os
import re

from softcache.errors import StorageError
from softcache.store.files.base import Files
from softcache.store.files.local import LocalFiles
from softcache.store.files.remote import RemoteFiles


def connect(url: str | os.PathLike[str]) -> Files:
    """Return the files at a path or fsspec URL. Reads and creates nothing. Raises StorageError for other text."""
    text = os.fspath(url)
    if not text or "\0" in text:
        raise StorageError(f"{text!r} is not the path or URL of a cache")
    if typo := re.match(r"([a-z][a-z0-9+.-]+):/(?!/)", text):
        raise StorageError(f"{text}: not a URL, which begins with {typo[1]}://; for a local folder give ./{text}")
    if "://" not in text:
        return LocalFiles(text)
    if "::" in text:
        raise StorageError(f"{text}: chained URLs are not supported; give the URL of the cache itself")
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return LocalFiles(text.removeprefix(scheme))
    return RemoteFiles(text)
