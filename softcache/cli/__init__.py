"""The command line: each command parses its arguments, calls one function and prints the result."""

from softcache.cli.main import main

__all__ = ["main"]
