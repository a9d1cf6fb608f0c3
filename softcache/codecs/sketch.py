"""The tail sketch: the log of the tail's partition function at a ladder of inverse temperatures.

With anchor a (the gap of the tail's largest logit, rounded up) and d_i = a - gap_i <= 0 over the tail,

    B(beta) = log sum_i exp(beta * d_i),    tail mass(T) = exp(B(1/T) - a/T) / Z(T)

is stored at nodes beta = m / 64. Between them it is the polynomial in log(1 + beta / c) through the nodes and beta = 0.
The nodes are chosen so that each power exp(m * d / 64) is a product of powers before it: one exponential serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

STEP = 4096  # codes per nat
UNIT = 64
BETA_MAX = 2.0
LAST_CODE, EMPTY_CODE = 65_534, 65_535
# Numbers in flight: few enough for a core's cache on a CPU, many enough for a GPU.
_CPU_NUMBERS, _GPU_NUMBERS = 2**19, 2**26


@dataclass(frozen=True)
class Ladder:
    """Nodes m (beta = m / 64) and the constant c of the variable log(1 + beta / c)."""

    nodes: tuple[int, ...]
    c: float

    @property
    def at_one(self) -> int:
        """The position of the node beta = 1."""
        return self.nodes.index(UNIT)

    def weights(self, beta: torch.Tensor) -> torch.Tensor:
        """Return the weights of B at beta = 0 and at the nodes for B at `beta` [R]: float32 [R, n + 1].

        The barycentric formula (Berrut and Trefethen 2004, eq. 4.2).
        """
        nodes, factors = (t.to(beta.device) for t in _barycentric(self))
        apart = torch.log1p(beta.double() / self.c)[:, None] - nodes
        at_node = apart.abs() < 1e-9
        terms = factors / torch.where(at_node, 1.0, apart)
        weights = terms / terms.sum(1, keepdim=True)
        return torch.where(at_node.any(1, keepdim=True), at_node.double(), weights).float()


LADDERS = {
    4: Ladder((16, 48, 64, 128), 1.0),
    8: Ladder((2, 8, 16, 32, 48, 64, 96, 128), 0.3),
    12: Ladder((2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128), 0.5),
    16: Ladder((2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 104, 112, 120, 128), 0.6),
    24: Ladder(
        (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 124, 128),
        0.5,
    ),
}


@cache
def _barycentric(ladder: Ladder) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nodes' places and barycentric factors, float64 [n + 1]."""
    places = torch.log1p(torch.tensor([0, *ladder.nodes], dtype=torch.float64) / UNIT / ladder.c)
    apart = places[:, None] - places
    apart.fill_diagonal_(1.0)
    factors = 1 / apart.prod(1)
    return places, factors / factors.abs().max()


@cache
def _steps(nodes: tuple[int, ...]) -> tuple[tuple[int, int, bool], ...]:
    """Return the multiplications that climb from power 1 to the last node.

    Each is the power reached so far, the power of two to multiply by, and whether the result is a node.
    """
    steps: list[tuple[int, int, bool]] = []
    at = 1
    for node in nodes:
        while at < node:
            step = 2 ** (min(node - at, at).bit_length() - 1)
            steps.append((at, step, at + step == node))
            at += step
    return tuple(steps)


def tail_sums(
    logits: torch.Tensor, anchor: torch.Tensor, head: torch.Tensor, ladder: Ladder, *, energies: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums over all classes of a row except those of `head`, with d the logits minus the anchor.

    `logits` is float32 [R, V], `anchor` float32 [R, 1] and finite, `head` int64 [R, k]. The first result is
    sum exp(beta * d) at the nodes, float32 [R, n]; the second is sum exp(d) * d, float32 [R], 0 unless `energies`.
    """
    rows, classes = logits.shape
    at_once = max((_CPU_NUMBERS if logits.device.type == "cpu" else _GPU_NUMBERS) // classes, 1)
    factors = sorted({step for at, step, _ in _steps(ladder.nodes) if step != at})
    # Use the same few buffers for all rows: fresh memory for each operation would cost more than the operation.
    space = logits.new_empty(2 + len(factors), min(at_once, rows), classes)
    sums, energy = logits.new_empty(rows, len(ladder.nodes)), logits.new_zeros(rows)
    for begin in range(0, rows, at_once):
        some = slice(begin, min(begin + at_once, rows))
        power, scratch, *kept = space[:, : some.stop - some.start]
        torch.add(anchor[some] * (-1 / UNIT), logits[some], alpha=1 / UNIT, out=power).exp_()
        power.scatter_(1, head[some], 0.0)
        found = [power.sum(1)] if ladder.nodes[0] == 1 else []
        by_factor = dict(zip(factors, kept, strict=True))
        for at, step, is_node in _steps(ladder.nodes):
            if at in by_factor:
                by_factor[at].copy_(power)
            power.mul_(power if step == at else by_factor[step])
            if is_node:
                found.append(power.sum(1))
            if energies and at + step == UNIT:
                # nansum, since a class that is ruled out gives 0 * -inf.
                energy[some] = torch.sub(logits[some], anchor[some], out=scratch).mul_(power).nansum(1)
        sums[some] = torch.stack(found, 1)
    return sums, energy


def count_at_least(logits: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
    """Return how many logits [R, V] of each row are at least `lowest` [R, 1]. One pass suffices if all are."""
    if bool((logits.amin(1, keepdim=True) >= lowest).all()):
        return torch.full_like(lowest[:, 0], logits.shape[1])
    return (logits >= lowest).sum(1).to(lowest.dtype)


def encode_nodes(sums: torch.Tensor) -> torch.Tensor:
    """Return sums (float32, any shape) as uint16 codes of their logs. A sum of 0 means an empty tail."""
    codes = (sums.log() * STEP).round().clamp(0, LAST_CODE)
    return codes.masked_fill(sums == 0, EMPTY_CODE).to(torch.int32).to(torch.uint16)


def decode_nodes(codes: torch.Tensor) -> torch.Tensor:
    """Return B at the nodes, float32 of the same shape. It is 0 for an empty tail, whose anchor is infinite."""
    numbers = codes.to(torch.float32)
    return (numbers / STEP).masked_fill(numbers == EMPTY_CODE, 0.0)
