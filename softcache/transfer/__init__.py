"""Transfer sets: the ordered samples that teachers label, their ids and content hashes."""

from softcache.transfer.sources import Source, from_object
from softcache.transfer.transfer_set import BY_POSITION, CONTENT_HASH, Scan, TransferSet

__all__ = ["BY_POSITION", "CONTENT_HASH", "Scan", "Source", "TransferSet", "from_object"]
