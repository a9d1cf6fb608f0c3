"""The distillation loss of Hinton, Vinyals and Dean 2015."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import Temperature, check_temperature
from softcache.distill.by_rows import by_rows
from softcache.distill.divergences import DIVERGENCES, student_buckets, teacher_buckets
from softcache.errors import TaskError
from softcache.read.soft_targets import SoftTargets

REDUCTIONS = ("mean", "sum", "none")


def distillation_loss(
    student_logits: torch.Tensor,
    soft: SoftTargets,
    temperature: Temperature = 1.0,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    reduction: str = "mean",
    *,
    divergence: str = "forward_kl",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return alpha * T² * KL(teacher || student) + (1 - alpha) * cross-entropy at T = 1.

    Both distributions of the KL are at `temperature`; T² keeps the soft gradients' size as T grows (Hinton et al. 2015,
    section 2.1). Where the target stores some classes and the mass of the rest, the rest counts as one class of teacher
    and student; the divergence of such buckets is never negative, and at most that of all classes. Computed in float32,
    a few rows at a time: beside the logits and their gradient it takes little memory, whatever the target's codec.

    Args:
        student_logits: [B, C], on any device; the soft targets are moved there. float64 is kept.
        soft: the teacher's rows, [B, C]. Rows without an answer count neither in the soft nor in the hard part.
        temperature: a number, or a tensor [B].
        labels: int64 [B] in [0, C); needed for alpha < 1, refused for alpha = 1.
        alpha: weight of the soft part, in [0, 1].
        reduction: `mean` over the rows that count (0 if there are none), `sum`, or `none` for [B] with 0 in the others.
        divergence: `forward_kl`; `reverse_kl`, KL(student || teacher); or `jensen_shannon`, half of each to their mean.
        mask: bool [B], False for further rows that do not count.

    Raises:
        TaskError: shapes that disagree, an invalid temperature, alpha, reduction, divergence or label, a target without
            temperature.
    """
    _check(student_logits, soft, labels, alpha, reduction, divergence, mask)
    device = student_logits.device
    soft = soft.to(device)
    counts = soft.mask if mask is None else soft.mask & mask.to(device)
    t = check_temperature(temperature, len(soft))
    temperatures = t.to(device) if isinstance(t, torch.Tensor) else torch.full((len(soft),), t, device=device)
    labels = None if labels is None else labels.to(device)
    compare = DIVERGENCES[divergence]

    def row_losses(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        at = temperatures[rows].to(logits.dtype)
        # Relative to the largest, so that no temperature, however small, makes infinities meet.
        student = (logits - logits.detach().amax(1, keepdim=True)) / at[:, None]
        columns = {name: column[rows] for name, column in soft.columns.items()}
        teacher = soft.decoder.sparse_log_probs(columns, temperatures[rows])
        if teacher is None:
            log_p, log_q = soft.decoder.log_probs(columns, temperatures[rows]), student.log_softmax(1)
        else:
            log_p, log_q = teacher_buckets(teacher, logits.shape[1]), student_buckets(student, teacher)
        losses = alpha * at**2 * compare(log_p.to(logits.dtype), log_q)
        if labels is None:
            return losses
        return losses + (1 - alpha) * F.cross_entropy(logits, labels[rows], reduction="none")

    losses = by_rows(student_logits, row_losses, counts)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum().clamp(min=1)


def _check(
    student_logits: torch.Tensor,
    soft: SoftTargets,
    labels: torch.Tensor | None,
    alpha: float,
    reduction: str,
    divergence: str,
    mask: torch.Tensor | None,
) -> None:
    expected = (len(soft), *soft.task.shape)
    if not soft.task.has_temperature:
        raise TaskError(
            f"a {soft.task.kind} target has no distribution; compare its .values, say with a mean squared error"
        )
    if tuple(student_logits.shape) != expected:
        raise TaskError(
            f"student logits are {list(student_logits.shape)}, the soft targets {list(expected)}; nothing is broadcast"
        )
    if not student_logits.is_floating_point():
        raise TaskError(f"student logits are {student_logits.dtype}; expected floating-point values")
    if reduction not in REDUCTIONS:
        raise TaskError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if divergence not in DIVERGENCES:
        raise TaskError(f"divergence is {divergence!r}; expected one of {', '.join(DIVERGENCES)}")
    if divergence != "forward_kl" and not soft.decoder.covers_all:
        raise TaskError(f"{divergence} needs the teacher's probability of every class; sampled classes give forward_kl")
    if mask is not None and (tuple(mask.shape) != (len(soft),) or mask.dtype != torch.bool):
        raise TaskError(f"mask is {mask.dtype} {list(mask.shape)}; expected bool [{len(soft)}]")
    if not 0 <= alpha <= 1:
        raise TaskError(f"alpha is {alpha}; expected a weight in [0, 1]")
    if labels is None:
        if alpha < 1:
            raise TaskError(
                f"alpha is {alpha} and there are no labels; give labels, or alpha=1 for the soft targets alone"
            )
        return
    if alpha == 1:
        raise TaskError("labels are given and alpha is 1, so they would not count; give alpha < 1, or no labels")
    if tuple(labels.shape) != (len(soft),) or labels.is_floating_point():
        raise TaskError(f"labels are {labels.dtype} {list(labels.shape)}; expected integers [{len(soft)}]")
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < expected[1]:
        raise TaskError(f"labels go from {int(labels.min())} to {int(labels.max())}; expected 0 to {expected[1] - 1}")
