"""The only package that touches a disk or fsspec.

No file is ever written in place: `create` publishes whole files and never overwrites one.
"""

from softcache.store.files.base import Files
from softcache.store.files.connect import connect

__all__ = ["Files", "connect"]
