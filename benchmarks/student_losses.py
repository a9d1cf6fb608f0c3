"""What `softcache.distillation_loss` costs beside the plain loss that one would write: a table of students.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from targets import soft
from timing import alternate, beside, ratio
from torch.profiler import ProfilerActivity, profile

import softcache
from softcache.codecs import DenseCodec, TopkCodec
from softcache.codecs.basis import fit_basis
from softcache.codecs.tables import GivenTable
from softcache.tasks import TaskSpec

TEMPERATURE, ALPHA = 2.0, 0.5
THREADS, BUSY = (1, 2), (0, 2)
OURS, PLAIN = "softcache", "plain"
HEAD = ["loss and backward", "threads", "busy processes", "ms", "plain, ms", "CPU ms", "plain, CPU ms", "times as fast"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch: the student's logits [B, C], a leaf; soft targets; labels [B], or None to train without them.

    Short work is repeated, so that each time that is taken is some tenths of a second.
    """

    title: str
    logits: torch.Tensor
    soft: softcache.SoftTargets
    labels: torch.Tensor | None = None
    repeats: int


Loss = Callable[[Case], torch.Tensor]


def ours(case: Case) -> torch.Tensor:
    alpha = 1.0 if case.labels is None else ALPHA
    return softcache.distillation_loss(case.logits, case.soft, TEMPERATURE, case.labels, alpha)


def plain(case: Case) -> torch.Tensor:
    log_q, log_p = F.log_softmax(case.logits / TEMPERATURE, -1), case.soft.log_probs(TEMPERATURE)
    rows = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    found = TEMPERATURE**2 * rows.mean()
    return found if case.labels is None else ALPHA * found + (1 - ALPHA) * F.cross_entropy(case.logits, case.labels)


LOSSES: dict[str, Loss] = {OURS: ours, PLAIN: plain}


def train_on(loss: Loss, case: Case) -> float:
    """Compute the loss and its gradient; return the loss."""
    case.logits.grad = None
    found = loss(case)
    found.backward()
    return found.item()


def cases() -> list[Case]:
    """Return batches of a language model's size, and small ones. A student's logits are the teacher's and noise."""
    made = torch.Generator().manual_seed(0)

    def both(rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        teacher = 3 * torch.randn(rows, classes, generator=made)
        return teacher, (0.7 * teacher + torch.randn(rows, classes, generator=made)).requires_grad_()

    def dense(teacher: torch.Tensor) -> softcache.SoftTargets:
        codec = DenseCodec(TaskSpec("classification", teacher.shape[1:], "logits"))
        return soft(codec, codec.encode(teacher))

    def topk(teacher: torch.Tensor) -> softcache.SoftTargets:
        codec = TopkCodec(TaskSpec("classification", teacher.shape[1:], "logits"), k=32, basis=32)
        codec = codec.with_table(GivenTable({"basis": fit_basis(teacher, codec.basis)}))
        return soft(codec, codec.encode(teacher))

    found = []
    for rows, classes, repeats in ((256, 10, 200), (256, 1000, 50)):
        teacher, logits = both(rows, classes)
        found.append(Case(title=f"{rows} x {classes:,}", logits=logits, soft=dense(teacher), repeats=repeats))
    teacher, logits = both(570, 49_152)
    labels, title, all_values = teacher.argmax(1), "570 x 49,152", dense(teacher)
    return [
        *found,
        Case(title=title, logits=logits, soft=all_values, repeats=1),
        Case(title=f"{title}, labels", logits=logits, soft=all_values, labels=labels, repeats=1),
        Case(title=f"{title}, top 32 and basis", logits=logits, soft=topk(teacher), repeats=1),
    ]


class Counted:
    """Work that is done a number of times, and the CPU seconds it took in each round, those of all threads together."""

    def __init__(self, work: Callable[[], object], repeats: int) -> None:
        self.work, self.repeats, self.cpu = work, repeats, list[float]()

    def __call__(self) -> None:
        began = time.process_time()
        for _ in range(self.repeats):
            self.work()
        self.cpu.append(time.process_time() - began)


def compare(case: Case, rounds: int) -> list[str]:
    """Return what both losses take: wall-clock time, CPU time, and the ratio of the first."""
    works = {name: Counted(partial(train_on, loss, case), case.repeats) for name, loss in LOSSES.items()}
    seconds = alternate(works, rounds)
    wall = [median(seconds[name]) for name in works]
    cpu = [median(work.cpu[1:]) for work in works.values()]  # without the round that warms up
    milliseconds = [f"{1e3 * each / case.repeats:.2f}" for each in (*wall, *cpu)]
    return [*milliseconds, f"{ratio(seconds, OURS, PLAIN):.2f}"]


def peak(loss: Loss, case: Case) -> float:
    """Return the MiB that a loss and its backward pass have allocated at the worst moment, beyond the gradient."""
    case.logits.grad = None  # freed now, not while allocations are counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        train_on(loss, case)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return (int(np.cumsum([event.nbytes() for event in events]).max()) - case.logits.nbytes) / 2**20


def losses(batches: list[Case], rounds: int) -> Iterator[list[str]]:
    """Yield the rows of the table. Raises SystemExit if the two losses differ."""
    threads = torch.get_num_threads()
    for case in batches:
        values = [train_on(loss, case) for loss in LOSSES.values()]
        if not np.isclose(*values, rtol=1e-5):
            raise SystemExit(f"{case.title}: the losses are {values}")
    for processes, count in product(BUSY, THREADS):
        torch.set_num_threads(count)
        with beside(processes):
            for case in batches:
                yield [case.title, f"{count}", f"{processes}", *compare(case, rounds)]
    torch.set_num_threads(threads)


def memory(batches: list[Case]) -> str:
    """Return what the losses on large batches allocate, in a sentence."""
    found = [f"{c.title}: {peak(ours, c):,.0f}, plain {peak(plain, c):,.0f}" for c in batches if c.repeats == 1]
    return f"Memory beside logits, soft targets and gradient, MiB: {'; '.join(found)}."
