"""The versions of libraries, recorded beside what they made."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from softcache.version import __version__ as softcache_version

_ABSENT = "absent"
# Distributions that may make views, by the module whose import shows that a transform uses them.
_OF_TRANSFORMS = {
    "PIL": ("pillow",),
    "albumentations": ("albumentations",),
    "cv2": ("opencv-python-headless", "opencv-python"),
    "kornia": ("kornia",),
    "scipy": ("scipy",),
    "skimage": ("scikit-image",),
    "torchvision": ("torchvision",),
}


def versions(libraries: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of softcache, Python, torch, NumPy and the given distributions, by name."""
    return {
        "softcache": softcache_version,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    } | {library: _version(library) for library in libraries}


def transform_versions() -> dict[str, str]:
    """Return the versions of everything that may affect how views are made, and the machine's architecture.

    Of the libraries that transforms use, only those that are imported are listed.
    """
    imported = [names for module, names in _OF_TRANSFORMS.items() if module in sys.modules]
    found = versions(name for names in imported for name in names)
    return {name: number for name, number in found.items() if number != _ABSENT} | {"machine": platform.machine()}


def versions_here(recorded: Mapping[str, str]) -> dict[str, str]:
    """Return the versions now installed of everything that `transform_versions` recorded; `absent` if there is none."""
    here = versions() | {"machine": platform.machine()}
    return {name: here[name] if name in here else _version(name) for name in recorded}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return _ABSENT
