"""The distillation loss of Hinton, Vinyals and Dean 2015."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import Temperature, check_temperature
from softcache.distill.by_rows import Rows, by_rows
from softcache.distill.divergences import DIVERGENCES, student_buckets, teacher_buckets
from softcache.errors import TaskError
from softcache.read.soft_sequences import SoftSequences
from softcache.read.soft_targets import SoftTargets

REDUCTIONS = ("mean", "sum", "none")
TAILS = ("shaped", "lumped")


def distillation_loss(
    student_logits: torch.Tensor,
    soft: SoftTargets,
    temperature: Temperature = 1.0,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    reduction: str = "mean",
    *,
    divergence: str = "forward_kl",
    tail: str = "shaped",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return alpha * T² * KL(teacher || student) + (1 - alpha) * cross-entropy at T = 1.

    Both distributions of the KL are at `temperature`; T² keeps the soft gradients' size as T grows (Hinton et al. 2015,
    section 2.1). Where the target stores some classes and the mass of the rest without its shape, the rest counts as
    one class of teacher and student; the divergence of such buckets is never negative, and at most that of all classes.
    Computed in float32, a few rows at a time: beside the logits and their gradient it takes little memory, whatever the
    target's codec.

    Args:
        student_logits: [B, C], on any device; the soft targets are moved there. float64 is kept. Of sequences [B, L',
            C], L' at least the longest, or [sum of lengths, C] for all of them one after the other
            (`SoftSequences.index`): logits at position t belong to the same position of the target, of causal_lm those
            that answer token t + 1. Of causal_lm they may be wider than C, as padded vocabularies are.
        soft: the teacher's rows. Those without an answer, and positions that are not stored, count neither in the soft
            nor in the hard part.
        temperature: a number, or a tensor [B].
        labels: int64 [B], or as the student's positions, in [0, C) wherever a row counts; needed for alpha < 1, refused
            for alpha = 1. `SoftSequences.next_tokens` are those of a language model.
        alpha: weight of the soft part, in [0, 1].
        reduction: `mean` over the rows or positions that count, of the whole batch alike (0 if there are none), `sum`,
            or `none` for each by itself with 0 in the others.
        tail: `shaped` compares all classes where the target stores the shape of the rest; `lumped` never does.
        divergence: `forward_kl`; `reverse_kl`, KL(student || teacher); or `jensen_shannon`, half of each to their mean.
        mask: bool, shaped as labels, False for further rows that do not count.

    Raises:
        TaskError: shapes that disagree, an invalid temperature, alpha, reduction, divergence or label, a target without
            temperature.
    """
    device, shape = student_logits.device, student_logits.shape[:-1]
    _check_settings(soft, alpha, reduction, divergence, tail)
    _check_logits(student_logits, soft)
    soft = soft.to(device)
    answered, items = _answers(soft, shape)
    counts = answered if mask is None else answered & _given("mask", mask, shape).to(device).reshape(-1)
    labels = _check_labels(labels, soft.task.shape[0], alpha, shape, counts)
    temperatures = _temperatures(soft, temperature)
    compare, classes = DIVERGENCES[divergence], soft.task.shape[0]
    by_class = tail == "shaped" and soft.decoder.has_shape

    def row_losses(logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        chosen = rows if items is None else items[rows]
        at = temperatures[chosen].to(logits.dtype)
        # Relative to the largest, so that no temperature, however small, makes infinities meet.
        student = (logits - logits.detach().amax(1, keepdim=True)) / at[:, None]
        columns = {name: column[chosen] for name, column in soft.columns.items()}
        teacher = None if by_class else soft.decoder.sparse_log_probs(columns, temperatures[chosen])
        if teacher is None:
            log_p, log_q = soft.decoder.log_probs(columns, temperatures[chosen]), student.log_softmax(1)
        else:
            log_p, log_q = teacher_buckets(teacher, classes), student_buckets(student, teacher)
        losses = alpha * at**2 * compare(log_p.to(logits.dtype), log_q)
        if labels is None:
            return losses
        return losses + (1 - alpha) * F.cross_entropy(logits, labels[rows], reduction="none")

    losses = by_rows(student_logits.flatten(0, -2)[:, :classes], row_losses, counts)
    if reduction == "none":
        return losses.view(shape)
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum().clamp(min=1)


def _answers(soft: SoftTargets, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return which of the student's rows, in one line, have an answer, and the stored item of each if not its own."""
    if not isinstance(soft, SoftSequences):
        return soft.mask, None
    items = soft.index(shape).view(-1)
    return items >= 0, items


def _temperatures(soft: SoftTargets, temperature: Temperature) -> torch.Tensor:
    """Return the temperature of each stored item, float32."""
    t = soft.temperatures(temperature) if isinstance(soft, SoftSequences) else check_temperature(temperature, len(soft))
    items = len(soft.row) if isinstance(soft, SoftSequences) else len(soft)
    return t.to(soft.device) if isinstance(t, torch.Tensor) else torch.full((items,), t, device=soft.device)


def _check_settings(soft: SoftTargets, alpha: float, reduction: str, divergence: str, tail: str) -> None:
    if not soft.task.has_temperature:
        raise TaskError(
            f"a {soft.task.kind} target has no distribution; compare its .values, say with a mean squared error"
        )
    if reduction not in REDUCTIONS:
        raise TaskError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if divergence not in DIVERGENCES:
        raise TaskError(f"divergence is {divergence!r}; expected one of {', '.join(DIVERGENCES)}")
    if tail not in TAILS:
        raise TaskError(f"tail is {tail!r}; expected one of {', '.join(TAILS)}")
    if divergence != "forward_kl" and not soft.decoder.covers_all:
        raise TaskError(f"{divergence} needs the teacher's probability of every class; sampled classes give forward_kl")
    if not 0 <= alpha <= 1:
        raise TaskError(f"alpha is {alpha}; expected a weight in [0, 1]")


def _check_logits(student_logits: torch.Tensor, soft: SoftTargets) -> None:
    given, (classes,) = list(student_logits.shape), soft.task.shape
    wide_enough = bool(given) and (given[-1] == classes or (soft.task.kind == "causal_lm" and given[-1] > classes))
    if soft.task.is_sequence:
        if len(given) not in (2, 3) or not wide_enough:
            raise TaskError(f"student logits are {given}; expected [{len(soft)}, positions, {classes}]")
    elif given != [len(soft), classes]:
        raise TaskError(f"student logits are {given}, the soft targets {[len(soft), classes]}; nothing is broadcast")
    if not student_logits.is_floating_point():
        raise TaskError(f"student logits are {student_logits.dtype}; expected floating-point values")


def _given(name: str, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return `values` if they are bool of a shape. Raises TaskError."""
    if values.shape != shape or values.dtype != torch.bool:
        raise TaskError(f"{name} is {values.dtype} {list(values.shape)}; expected bool {list(shape)}")
    return values


def _check_labels(
    labels: torch.Tensor | None, classes: int, alpha: float, shape: torch.Size, counts: torch.Tensor
) -> torch.Tensor | None:
    """Return labels in one line, on the logits' device, 0 where a row does not count. Raises TaskError."""
    if labels is None:
        if alpha < 1:
            raise TaskError(
                f"alpha is {alpha} and there are no labels; give labels, or alpha=1 for the soft targets alone"
            )
        return None
    if alpha == 1:
        raise TaskError("labels are given and alpha is 1, so they would not count; give alpha < 1, or no labels")
    if labels.shape != shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TaskError(f"labels are {labels.dtype} {list(labels.shape)}; expected integers {list(shape)}")
    found = labels.to(counts.device, torch.int64).reshape(-1).masked_fill(~counts, 0)
    if found.device.type == "cpu" and len(found) and not 0 <= int(found.min()) <= int(found.max()) < classes:
        raise TaskError(f"labels go from {int(found.min())} to {int(found.max())}; expected 0 to {classes - 1}")
    return found
