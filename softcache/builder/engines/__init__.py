"""Engines: who executes the units of a prepared build.

An engine is a function `run(prepared, stop, progress)` that does every unit which is left, and returns the receipts by
unit key and the number of samples that teachers answered. It raises IncompleteCache if `stop` was set before the end.
Its duties, which `local.py` shows in order:

- check that the disk has room;
- per teacher: publish its targets' tables before any shard, and check canaries before any answer;
- write the `rows` shard of a fragment before answers to its views, and also those that no teacher asks for;
- publish each shard with its receipt (`publish/shards.py`).

Units are found by their keys and receipts are created exclusively, so that engines need no agreement with each other.
"""
