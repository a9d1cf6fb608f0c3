"""`softcache init`: a commented recipe to start from."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from softcache.errors import StorageError


def init(path: str | os.PathLike[str] = "recipe.yaml") -> Path:
    """Write a commented example recipe to a new file and return its path.

    Raises StorageError if the file already exists or cannot be written.

    Examples:
        >>> path = softcache.init("my/recipe.yaml")
        >>> path.read_text().startswith("#")
        True
    """
    text = files("softcache.recipe").joinpath("example.yaml").read_text(encoding="utf-8")
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not `target`, which has lost a trailing slash: that names a folder.
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        raise StorageError(f"{path}: {e.strerror}") from e
    return target
