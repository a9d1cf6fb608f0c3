"""The distillation loss of Hinton, Vinyals and Dean 2015."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import SparseLogProbs, Temperature
from softcache.distill.by_rows import Rows, by_rows
from softcache.distill.divergences import DIVERGENCES, known_classes, student_buckets, teacher_buckets
from softcache.errors import TaskError
from softcache.soft.protocol import Soft
from softcache.tasks import TaskSpec

REDUCTIONS = ("mean", "sum", "none")
TAILS = ("shaped", "lumped")


def distillation_loss(
    student_logits: torch.Tensor,
    soft: Soft,
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

    Both distributions of the KL are at `temperature`; T² keeps the size of the soft gradients as T grows (Hinton et al.
    2015, section 2.1). If the target stores some classes, and the mass of the others without its shape, the others
    count as one class of teacher and student; this divergence is never negative, and at most that of all classes. It is
    computed in float32, a few rows at a time, so that besides the logits and their gradient it takes little memory.

    With sigmoid each class is a distribution of its own over two outcomes; the divergences and cross-entropies of the
    classes are added. If the teacher knows only some of the classes, the student's distribution over these is compared,
    or with a dustbin the one over these and all others together (Hinton et al. 2015, section 5.3).

    Args:
        student_logits: [B, C], on any device; the soft targets are moved there. float64 is kept. C is the size of the
            whole label space. For maps [B, C, H, W], as large as the teacher's. For sequences [B, L', C] with L' at
            least the longest, or [sum of lengths, C] without padding (`SoftSequences.index`): the logits at position t
            belong to position t of the target; for causal_lm these answer token t + 1, and the last axis may be wider
            than C, as padded vocabularies are.
        soft: the teacher's answers. Rows without an answer, and positions that are not stored, count neither in the
            soft nor in the hard part.
        temperature: a number, or a tensor [B].
        labels: int64 [B], or shaped as the student's positions ([B, H, W] for maps), in [0, C) wherever a row counts.
            With sigmoid numbers from 0 to 1, shaped as the logits. Needed for alpha < 1, refused for alpha = 1. For a
            language model use `SoftSequences.next_tokens`.
        alpha: weight of the soft part, in [0, 1].
        reduction: `mean` over all rows, positions or places of the batch that count (0 if none does), `sum`, or `none`
            for one loss each, 0 where it does not count.
        tail: `shaped` compares all classes if the target stores the shape of the tail; `lumped` never does.
        divergence: `forward_kl`; `reverse_kl`, KL(student || teacher); or `jensen_shannon`, the mean of the divergences
            of both to their mean.
        mask: bool, shaped as the student's rows, positions or places; False leaves more of them out.

    Raises:
        TaskError: shapes that disagree, an invalid temperature, alpha, reduction, divergence or label, a target without
            temperature.

    Examples:
        >>> soft = softcache.open("runs/digits")["digit@a"].lookup([0, 1])
        >>> logits = torch.zeros(2, 10, requires_grad=True)
        >>> labels = torch.tensor([0, 1])
        >>> loss = softcache.distillation_loss(logits, soft, temperature=4.0, labels=labels, alpha=0.7)
        >>> loss.backward()
        >>> own = soft.values.float()  # a student with the teacher's logits
        >>> bool(softcache.distillation_loss(own, soft, temperature=4.0) < 1e-6)
        True
    """
    _check_settings(soft, alpha, reduction, divergence, tail)
    _check_logits(student_logits, soft)
    task, soft = soft.task, soft.to(student_logits.device)
    # Classes last, as lists have them.
    logits = student_logits.movedim(1, -1) if task.is_map else student_logits
    shape = logits.shape[:-1]
    decoder, columns = soft.decoder.per_item(soft.columns)
    answered, items = soft.items_for(shape)
    counts = answered if mask is None else answered & _given("mask", mask, shape).to(logits.device).reshape(-1)
    hard = _check_labels(labels, task, alpha, logits, counts)
    temperatures = soft.item_temperatures(temperature)
    by_class = tail == "shaped" and decoder.has_shape
    loss = _softmax_losses if task.activation == "softmax" else _sigmoid_losses

    def row_losses(some: torch.Tensor, rows: Rows) -> torch.Tensor:
        chosen = rows if items is None else items[rows]
        at = temperatures[chosen]
        own = {name: column[chosen] for name, column in columns.items()}
        if task.activation == "sigmoid":
            teacher: torch.Tensor | SparseLogProbs = decoder.log_outcomes(own, at)
        else:
            sparse = None if by_class else decoder.sparse_log_probs(own, at)
            teacher = decoder.log_probs(own, at) if sparse is None else sparse
        soft_part, hard_part = loss(task, some, teacher, at, divergence, None if hard is None else hard[rows])
        found = alpha * at.to(some.dtype) ** 2 * soft_part
        return found if hard_part is None else found + (1 - alpha) * hard_part

    losses = by_rows(logits.flatten(0, -2)[:, : task.label_space], row_losses, counts)
    if reduction == "none":
        return losses.view(shape)
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum().clamp(min=1)


def _softmax_losses(
    task: TaskSpec,
    logits: torch.Tensor,
    teacher: torch.Tensor | SparseLogProbs,
    at: torch.Tensor,
    divergence: str,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the soft and the hard part of some rows of logits [r, C]; `at` float32 [r] are their temperatures."""
    # Relative to the largest, so that no small temperature makes two infinities meet.
    student = known_classes((logits - logits.detach().amax(1, keepdim=True)) / at.to(logits.dtype)[:, None], task)
    if isinstance(teacher, torch.Tensor):
        log_p, log_q = teacher, student.log_softmax(1)
    else:
        log_p, log_q = teacher_buckets(teacher, task.shape[0]), student_buckets(student, teacher)
    soft_part = DIVERGENCES[divergence](log_p.to(logits.dtype), log_q)
    return soft_part, None if labels is None else F.cross_entropy(logits, labels, reduction="none")


def _sigmoid_losses(
    task: TaskSpec,
    logits: torch.Tensor,
    teacher: torch.Tensor | SparseLogProbs,
    at: torch.Tensor,
    divergence: str,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the same as `_softmax_losses` for independent classes, summed over the classes."""
    assert isinstance(teacher, torch.Tensor)
    student = known_classes(logits / at.to(logits.dtype)[:, None], task)
    log_q = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)], -1)
    soft_part = DIVERGENCES[divergence](teacher.to(logits.dtype), log_q).sum(1)
    if labels is None:
        return soft_part, None
    return soft_part, F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").sum(1)


def _check_settings(soft: Soft, alpha: float, reduction: str, divergence: str, tail: str) -> None:
    if not soft.task.has_temperature:
        raise TaskError(f"a {soft.task.kind} target has no distribution; use softcache.regression_loss")
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


def _check_logits(student_logits: torch.Tensor, soft: Soft) -> None:
    given, task = list(student_logits.shape), soft.task
    classes = task.label_space
    if task.is_list:
        wide_enough = bool(given) and (given[-1] == classes or (task.traits.has_tokens and given[-1] > classes))
        if len(given) not in (2, 3) or not wide_enough:
            raise TaskError(f"student logits are {given}; expected [{len(soft)}, positions, {classes}]")
    elif given != (expected := [len(soft), classes, *task.shape[1:]]):
        hint = "; resize the student's maps (torch.nn.functional.interpolate)" if task.is_map else ""
        raise TaskError(f"student logits are {given}, the soft targets {expected}; nothing is broadcast{hint}")
    if not student_logits.is_floating_point():
        raise TaskError(f"student logits are {student_logits.dtype}; expected floating-point values")


def _given(name: str, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return `values` if they are bool of a shape. Raises TaskError."""
    if values.shape != shape or values.dtype != torch.bool:
        raise TaskError(f"{name} is {values.dtype} {list(values.shape)}; expected bool {list(shape)}")
    return values


def _check_labels(
    labels: torch.Tensor | None, task: TaskSpec, alpha: float, logits: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor | None:
    """Return one label for each row of the logits [..., C], on their device; 0 where a row does not count.

    Raises TaskError.
    """
    if labels is None:
        if alpha < 1:
            raise TaskError(
                f"alpha is {alpha} and there are no labels; give labels, or alpha=1 to use only the soft targets"
            )
        return None
    if alpha == 1:
        raise TaskError("labels are given and alpha is 1, so they would not count; give alpha < 1, or no labels")
    if task.activation == "sigmoid":
        return _each_label(labels, task, logits, counts)
    shape, classes = logits.shape[:-1], task.label_space
    if labels.shape != shape or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TaskError(f"labels are {labels.dtype} {list(labels.shape)}; expected integers {list(shape)}")
    found = labels.to(counts.device, torch.int64).reshape(-1).masked_fill(~counts, 0)
    if found.device.type == "cpu" and len(found) and not 0 <= int(found.min()) <= int(found.max()) < classes:
        raise TaskError(f"labels go from {int(found.min())} to {int(found.max())}; expected 0 to {classes - 1}")
    return found


def _each_label(labels: torch.Tensor, task: TaskSpec, logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return labels of independent classes, float32 [R, C]. Raises TaskError."""
    moved = labels.movedim(1, -1) if task.is_map and labels.ndim == logits.ndim else labels
    if moved.shape != logits.shape:
        raise TaskError(f"labels are {labels.dtype} {list(labels.shape)}; expected one for each logit, from 0 to 1")
    found = moved.to(counts.device, torch.float32).flatten(0, -2).masked_fill(~counts[:, None], 0.0)
    if found.device.type == "cpu" and not bool(((found >= 0) & (found <= 1)).all()):
        raise TaskError(f"labels go from {float(found.min())} to {float(found.max())}; expected 0 to 1")
    return found
