"""The distillation loss of Hinton, Vinyals and Dean 2015."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import Temperature, check_temperature
from softcache.codecs.temperature import temper
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
) -> torch.Tensor:
    """Return alpha * T² * KL(teacher || student) + (1 - alpha) * cross-entropy at T = 1.

    Both distributions of the KL are at `temperature`; T² keeps the soft gradients' size as T grows (Hinton et al. 2015,
    section 2.1). Computed in float32.

    Args:
        student_logits: [B, C], on any device; the soft targets are moved there.
        soft: the teacher's rows, [B, C]. Rows without an answer count neither in the soft nor in the hard part.
        temperature: a number, or a tensor [B].
        labels: int64 [B] in [0, C); needed for alpha < 1, refused for alpha = 1.
        alpha: weight of the soft part, in [0, 1].
        reduction: `mean` over the rows with an answer (0 if there are none), `sum`, or `none` for [B] with 0 in the
            others.

    Raises:
        TaskError: shapes that disagree, an invalid temperature, alpha, reduction or label, a target without
            temperature.
    """
    _check(student_logits, soft, labels, alpha, reduction)
    soft = soft.to(student_logits.device)
    mask = soft.mask
    t = check_temperature(temperature, len(soft))
    teacher = soft.log_probs(t).masked_fill(~mask[:, None], 0.0)
    student = temper(student_logits, t)
    weighted = torch.where(teacher > -torch.inf, teacher.exp() * (teacher - student), 0.0).sum(-1)
    scale = t.to(student.device) if isinstance(t, torch.Tensor) else t
    loss = alpha * scale**2 * weighted
    if labels is not None:
        hard = F.cross_entropy(student_logits.float(), labels.to(student_logits.device), reduction="none")
        loss = loss + (1 - alpha) * hard
    loss = torch.where(mask, loss, 0.0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / mask.sum().clamp(min=1)


def _check(
    student_logits: torch.Tensor, soft: SoftTargets, labels: torch.Tensor | None, alpha: float, reduction: str
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
    if reduction not in REDUCTIONS:
        raise TaskError(f"reduction is {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
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
