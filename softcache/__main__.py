"""`python -m softcache` is the command line."""

from softcache.cli import main

main()
