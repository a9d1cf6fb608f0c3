"""Engines: who executes the units of a prepared build.

An engine is a function `run(prepared, stop, progress)` that does every unit which is left, and returns the receipts by
unit key and the number of samples that teachers answered. It raises IncompleteCache if `stop` was set before the end.
Units are found by their keys and receipts are created exclusively, so that engines need no other agreement.
"""
