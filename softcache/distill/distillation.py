"""The distillation loss of Hinton, Vinyals and Dean 2015."""

from __future__ import annotations

import torch

from softcache.codecs import Temperature
from softcache.distill.by_rows import RowGroup, Rows, by_rows
from softcache.distill.checks import REDUCTIONS, check_choice, finite
from softcache.distill.comparison import Comparison, Divergence, is_by_label
from softcache.distill.labels import NO_CLASS, LabelOptions
from softcache.distill.parts import Items, read_parts
from softcache.distill.positions import check_logits, refuse_gradients
from softcache.errors import TaskError
from softcache.soft.protocol import Soft


def distillation_loss(
    student_logits: torch.Tensor,
    soft: Soft,
    temperature: Temperature = 1.0,
    labels: torch.Tensor | None = None,
    alpha: float = 1.0,
    reduction: str = "mean",
    *,
    divergence: Divergence = "forward_kl",
    tail: str = "shaped",
    mask: torch.Tensor | None = None,
    label_mask: torch.Tensor | None = None,
    ignore_index: int = NO_CLASS,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    sample_weights: torch.Tensor | None = None,
    num_items: Items | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return alpha * T² * KL(teacher || student) + (1 - alpha) * cross-entropy at T = 1.

    Both distributions of the KL are at `temperature`; T² keeps the size of the soft gradients as T grows (Hinton et al.
    2015, section 2.1). If the target stores some classes, and the mass of the others without its shape, the others
    count as one class of teacher and student; this divergence is never negative, and at most that of all classes. It is
    computed in float32, a few rows at a time, so that besides the logits and their gradient it takes little memory.

    With sigmoid each class is a distribution of its own over two outcomes; the divergences and cross-entropies of the
    classes are added. If the teacher knows only some of the classes, the student's distribution over these is compared,
    or with a dustbin the one over these and all others together (Hinton et al. 2015, section 5.4).

    Args:
        student_logits: [B, C], on any device; the soft targets are moved there. float64 is kept. C is the size of the
            whole label space. For maps [B, C, H, W], as large as the teacher's. For sequences [B, L', C], or [sum of
            lengths, C] without padding (`SoftSequences.index`): the logits at position t belong to position t of the
            target; for causal_lm these answer token t + 1, and the last axis may be wider than C, as padded
            vocabularies are. L' is that of the longest sequence; for causal_lm, and with `lengths`, it may be larger.
        soft: the teacher's answers. Rows without an answer, and positions that are not stored, do not count in the soft
            part, nor in the hard part unless `label_mask` says so.
        temperature: a number, or a tensor [B]. In float32 the loss of temperatures above 1,000 loses digits; its
            gradient does not.
        labels: int64 [B], or shaped as the student's positions ([B, H, W] for maps): classes in [0, C), or
            `ignore_index` where there is none. Or numbers from 0 to 1, shaped as the logits: distributions over the
            classes (of Mixup and CutMix), or with sigmoid a label for each class; NaN where there is none. What has no
            label counts in the soft part alone. Needed for alpha < 1. For a language model use
            `SoftSequences.next_tokens`.
        alpha: weight of the soft part, a number in [0, 1].
        reduction: `mean`; `sum`; or `none` for one loss for each row, position or place, 0 where it does not count.
            `mean` divides each part by the number of rows that count in it; a part in which none counts is 0.
        divergence: `forward_kl`; `reverse_kl`, KL(student || teacher); `jensen_shannon`, the mean of the divergences of
            both to their mean; a `DecoupledKL`, in which rows without a label do not count; or a `TailAwareKL`.
        tail: `shaped` compares all classes if the target stores the shape of the tail; `lumped` never does.
        mask: bool, shaped as the student's rows, positions or places, or with sigmoid as the logits; False leaves more
            of them out.
        label_mask: bool, of a shape that `mask` may have: where the hard part counts, by default where the soft part
            does.
        ignore_index: the label of rows without a label, if labels are classes.
        label_smoothing: in [0, 1), for the hard part, as torch's `CrossEntropyLoss` has it.
        class_weights: float [C], for the hard part, as torch's losses have them. The mean of labels that are classes
            is then a weighted one.
        sample_weights: float [B], at least 0. The mean of each part is then a weighted one.
        num_items: what `mean` divides both parts by in place of their numbers of rows, or two numbers for the soft and
            the hard part. With those of a whole step, from `count_items`, accumulated gradients are those of one large
            batch.
        lengths: int64 [B], the numbers of frames of the student's sequences. They must be the teacher's; a student of
            another frame rate needs `SoftSequences.resample`.

    Labels and masks are checked on the device together with the mask, in a wait that is needed anyway.

    The gradient is that of the logits alone: what else is learned, such as a temperature, is refused.

    Raises:
        TaskError: shapes that disagree, an invalid temperature, alpha, reduction, divergence, label or weight, a target
            without temperature.

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
    if not soft.task.has_temperature:
        raise TaskError(f"a {soft.task.kind} target has no distribution; use softcache.regression_loss")
    check_choice("reduction", reduction, REDUCTIONS)
    if not 0 <= (alpha := finite("alpha", alpha)) <= 1:
        raise TaskError(f"alpha is {alpha}; expected a weight in [0, 1]")
    refuse_gradients(temperature=temperature, labels=labels, class_weights=class_weights, sample_weights=sample_weights)
    check_logits(student_logits, soft)
    soft = soft if soft.device == student_logits.device else soft.to(student_logits.device)
    comparison = Comparison.of(soft, divergence, tail, temperature)
    # Classes last, as lists have them.
    logits = student_logits.movedim(1, -1) if soft.task.is_map else student_logits
    logits = logits[..., : soft.task.label_space]
    parts = read_parts(
        soft,
        logits.shape,
        labels,
        needs_labels=alpha < 1 or is_by_label(divergence),
        by_label=is_by_label(divergence),
        mask=mask,
        label_mask=label_mask,
        weights=sample_weights,
        options=LabelOptions(ignore_index=ignore_index, smoothing=label_smoothing, class_weights=class_weights),
        lengths=lengths,
    )
    plan = parts.plan(alpha, reduction, num_items)

    def both(some: torch.Tensor, rows: Rows) -> torch.Tensor:
        items = parts.items_of(rows)
        found = parts.over_classes(comparison.divergences(some, items, parts.right_classes(rows)), rows)
        found = found * (plan.soft_scale_of(rows) * comparison.square_temperature(items, some.dtype))
        return found + labels_alone(some, rows) if alpha < 1 else found

    def labels_alone(some: torch.Tensor, rows: Rows) -> torch.Tensor:
        assert parts.hard is not None
        return parts.hard.losses(some, rows) * plan.hard_scale_of(rows)

    groups = [RowGroup(plan.soft_rows, both)]
    if plan.hard_rows is not None:
        groups.append(RowGroup(plan.hard_rows, labels_alone))
    losses = by_rows(logits.flatten(0, -2), groups)
    return losses.view(logits.shape[:-1]) if reduction == "none" else losses.sum()


def count_items(
    soft: Soft,
    labels: torch.Tensor | None = None,
    *,
    mask: torch.Tensor | None = None,
    label_mask: torch.Tensor | None = None,
    ignore_index: int = NO_CLASS,
    class_weights: torch.Tensor | None = None,
    sample_weights: torch.Tensor | None = None,
    divergence: Divergence = "forward_kl",
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return how much counts in the soft and in the hard part of a batch: what `mean` divides by, float32 [2].

    Without weights these are numbers of rows, positions or places. To accumulate gradients over several batches, or in
    several processes, add up their numbers, and give the sums to `distillation_loss` as `num_items`: the gradients then
    add up to those of one large batch. The arguments are those of `distillation_loss`, and so is what is raised.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> softs = [cache["digit@a"].lookup(ids) for ids in ([0, 1, 2], [3])]
        >>> student = torch.nn.Linear(64, 10)
        >>> total = sum(softcache.count_items(soft) for soft in softs)
        >>> for soft in softs:
        ...     logits = student(torch.zeros(len(soft), 64))
        ...     softcache.distillation_loss(logits, soft, temperature=4.0, num_items=total).backward()
        >>> total.tolist()
        [4.0, 0.0]
    """
    parts = read_parts(
        soft,
        _student_shape(soft, labels, mask),
        labels,
        needs_labels=is_by_label(divergence),
        by_label=is_by_label(divergence),
        mask=mask,
        label_mask=label_mask,
        weights=sample_weights,
        options=LabelOptions(ignore_index=ignore_index, smoothing=0.0, class_weights=class_weights),
        lengths=lengths,
    )
    return parts.totals()


def _student_shape(soft: Soft, labels: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Size:
    """Return the shape of the logits that labels or a mask belong to, classes last."""
    task = soft.task
    positions = soft.mask.shape if task.is_list else torch.Size([len(soft), *task.shape[1:]])
    given = labels if labels is not None else mask
    if task.is_list and given is not None:
        per_class = given.ndim and given.shape[-1] == task.label_space and given.ndim > 1 and given.is_floating_point()
        positions = given.shape[:-1] if per_class else given.shape
    return torch.Size([*positions, task.label_space])
