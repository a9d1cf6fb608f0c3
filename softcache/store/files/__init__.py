"""The only place that touches a disk or fsspec.

Nothing is ever opened for writing in place: `create` publishes whole files and never overwrites one.
"""

from softcache.store.files.base import Files
from softcache.store.files.connect import connect

__all__ = ["Files", "connect"]
