"""The version of softcache, read by packaging and recorded in every cache."""

__version__ = "0.1.0"
