"""The command line: parse, call one function, print."""

from softcache.cli.main import main

__all__ = ["main"]
