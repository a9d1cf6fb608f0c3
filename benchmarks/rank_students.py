"""What students learn from stored logits of a language model: the part of fidelity.py that trains.

A student is a matrix of rank 32 from the teacher's last hidden states to its vocabulary: it cannot say all that the
teacher says, and it trains in half a minute. What it is trained on differs, nothing else does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from targets import soft

import softcache
from softcache.codecs import Codec

RANK, BATCH, STEPS, RATE = 32, 64, 400, 5e-3
TEMPERATURES = (1.0, 2.0, 4.0)
Estimate = Callable[[torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """Last hidden states to train on and to test on, [n, d], and the output matrix [V, d]."""

    train: torch.Tensor
    test: torch.Tensor
    matrix: torch.Tensor


def encode_all(rows: Rows, codec: Codec) -> dict[str, torch.Tensor]:
    """Return the columns of all training rows."""
    parts = [codec.encode(part @ rows.matrix.T if codec.traits.sees_logits else part) for part in rows.train.split(256)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def train(
    rows: Rows, target: Codec | Estimate, columns: Mapping[str, torch.Tensor], t: float, seed: int
) -> torch.Tensor:
    """Train a student on a codec's columns or on an estimate of log p(T); return it as a matrix [V, d]."""
    generator = torch.Generator().manual_seed(seed)
    width, classes = rows.train.shape[1], len(rows.matrix)
    scale = rows.train.std()
    inner = (torch.randn(RANK, width, generator=generator) / width**0.5 / scale).requires_grad_()
    outer = torch.zeros(classes, RANK, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([inner, outer, bias], RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        picked = torch.randint(len(rows.train), (BATCH,), generator=generator)
        hidden = rows.train[picked]
        logits = hidden @ inner.T @ outer.T + bias
        if isinstance(target, Codec):
            some = soft(target, {name: column[picked] for name, column in columns.items()})
            loss = softcache.distillation_loss(logits, some, t)
        else:
            log_p = target(hidden @ rows.matrix.T, t)
            loss = (
                t**2 * F.kl_div((logits / t).log_softmax(1), log_p, log_target=True, reduction="none").nansum() / BATCH
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return torch.cat([outer.detach() @ inner.detach(), bias.detach()[:, None]], 1)


@torch.no_grad()
def held_out(rows: Rows, student: torch.Tensor, t: float) -> float:
    """Return the mean KL(teacher || student) at T on the held-out rows, in nats."""
    total = 0.0
    for part in rows.test.split(128):
        log_p = (part @ rows.matrix.T / t).log_softmax(1)
        log_q = ((part @ student[:, :-1].T + student[:, -1]) / t).log_softmax(1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / len(rows.test)


def students(
    rows: Rows, targets: Mapping[str, tuple[int, Codec | Estimate]], seeds: int, state: Path
) -> Iterator[list[str]]:
    """Yield the table's rows. What is trained is kept in `state`, so that a second run goes on where one stopped."""
    done: dict[str, float] = json.loads(state.read_text()) if state.exists() else {}
    for name, (size, target) in targets.items():
        columns: dict[str, torch.Tensor] = {}
        cells = []
        for t in TEMPERATURES:
            found = []
            for seed in range(seeds):
                key = f"{name}, T = {t:g}, seed {seed}"
                if key not in done:
                    began = time.perf_counter()
                    if isinstance(target, Codec) and not columns:
                        columns = encode_all(rows, target)
                    # Trained at T, asked at T = 1: that is what the student is used at.
                    done[key] = held_out(rows, train(rows, target, columns, t, seed), 1.0)
                    state.write_text(json.dumps(done, indent=1))
                    print(f"{key}: {done[key]:.3f} ({time.perf_counter() - began:.0f} s)", flush=True)
                found.append(done[key])
            spread = f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.3f}{spread}")
        yield [name, f"{size:,}", *cells]
