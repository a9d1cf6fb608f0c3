"""The loss for detectors that predict a set of boxes: each stored box is matched with one prediction of the student."""

from __future__ import annotations

from typing import Any

import torch

from softcache.codecs import Temperature
from softcache.distill.distillation import distillation_loss
from softcache.errors import MissingExtra, TaskError
from softcache.soft.sequences import SoftSequences

NO_MATCH = -1


def match_detections(
    student_logits: torch.Tensor,
    student_boxes: torch.Tensor,
    soft: SoftSequences,
    *,
    class_cost: float = 1.0,
    box_cost: float = 5.0,
    overlap_cost: float = 2.0,
) -> torch.Tensor:
    """Return which of a student's Q predictions answers each stored box, int64 [B, L], -1 where there is no box.

    It is the cheapest assignment that uses each prediction at most once (Carion et al. 2020, section 3.1, with its
    weights). The cost has three parts: the probability that both give to the same class, the L1 distance of the boxes,
    and their generalised overlap (Rezatofighi et al. 2019, Algorithm 1).

    Args:
        student_logits: [B, Q, C].
        student_boxes: [B, Q, 4], as the target's boxes are given; the default costs are for relative ones.
        soft: the stored detections of the same samples.
        class_cost: weight of the classes.
        box_cost: weight of the boxes' distance.
        overlap_cost: weight of the boxes' overlap.

    Raises:
        TaskError: shapes that disagree, fewer predictions than stored boxes, a target without boxes.
        MissingExtra: without scipy.

    Examples:
        >>> import numpy as np
        >>> from softcache.codecs import DenseCodec
        >>> from softcache.soft.keys import KnownKeys
        >>> from softcache.tasks import TaskSpec
        >>> task = TaskSpec(
        ...     "detection", (3,), "logits", activation="softmax", parts=("boxes",), boxes="relative_xyxy"
        ... )
        >>> codec = DenseCodec(task)
        >>> teacher_boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.8]])
        >>> soft = softcache.SoftSequences(  # one sample with two boxes; `Target.lookup` reads these from a cache
        ...     decoder=codec.decoder,
        ...     columns=codec.encode(3 * torch.eye(3)[:2]) | {"boxes": teacher_boxes},
        ...     mask=torch.ones(1, 2, dtype=torch.bool),
        ...     keys=KnownKeys(np.array([7]), np.zeros(1, np.int32)),
        ...     lengths=torch.tensor([2]),
        ...     packed_tokens=None,
        ... )
        >>> student_boxes = teacher_boxes.flip(0)[None]  # two predictions, in the other order
        >>> softcache.match_detections(torch.zeros(1, 2, 3), student_boxes, soft)
        tensor([[1, 0]])
    """
    _check(student_logits, student_boxes, soft)
    assign = _assignment()
    found = torch.full(soft.mask.shape, NO_MATCH, dtype=torch.int64)
    with torch.no_grad():
        logits, boxes = student_logits.float(), student_boxes.float()
        ours = logits.softmax(-1) if soft.task.activation == "softmax" else logits.sigmoid()
        soft = soft.to(student_logits.device)
        theirs, their_boxes = soft.probs(), soft.parts["boxes"]
        for i, there in enumerate(soft.mask):
            if not bool(there.any()):
                continue
            targets = their_boxes[i, there]
            cost = -class_cost * theirs[i, there] @ ours[i].T + box_cost * torch.cdist(targets, boxes[i], p=1)
            cost = cost - overlap_cost * _generalised_overlap(_corners(targets, soft), _corners(boxes[i], soft))
            stored, predicted = assign(cost.cpu().double().numpy())
            rows = there.cpu().nonzero()[:, 0]
            found[i, rows[torch.as_tensor(stored)]] = torch.as_tensor(predicted)
    return found.to(student_logits.device)


def detection_loss(
    student_logits: torch.Tensor,
    student_boxes: torch.Tensor,
    soft: SoftSequences,
    temperature: Temperature = 1.0,
    *,
    box_weight: float = 5.0,
    overlap_weight: float = 2.0,
    matched: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of a student's predictions that answer the stored boxes, averaged over these boxes.

    It is T² * KL(teacher || student) for the classes, plus the L1 distance and the generalised overlap of the boxes
    (Carion et al. 2020, eq. 2, with its weights). Predictions that answer no stored box do not count. If the student
    should learn where there is no object, store the teacher's boxes without objects too.

    Args:
        student_logits: [B, Q, C], C being the whole label space.
        student_boxes: [B, Q, 4], as the target's boxes are given.
        soft: the stored detections of the same samples.
        temperature: a number, or a tensor [B].
        box_weight: weight of the boxes' distance.
        overlap_weight: weight of the boxes' overlap.
        matched: int64 [B, L], by default `match_detections`.

    Raises as `match_detections` and `distillation_loss`.

    Examples:
        >>> import numpy as np
        >>> from softcache.codecs import DenseCodec
        >>> from softcache.soft.keys import KnownKeys
        >>> from softcache.tasks import TaskSpec
        >>> task = TaskSpec(
        ...     "detection", (3,), "logits", activation="softmax", parts=("boxes",), boxes="relative_xyxy"
        ... )
        >>> codec = DenseCodec(task)
        >>> teacher_boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.8]])
        >>> soft = softcache.SoftSequences(  # one sample with two boxes; `Target.lookup` reads these from a cache
        ...     decoder=codec.decoder,
        ...     columns=codec.encode(3 * torch.eye(3)[:2]) | {"boxes": teacher_boxes},
        ...     mask=torch.ones(1, 2, dtype=torch.bool),
        ...     keys=KnownKeys(np.array([7]), np.zeros(1, np.int32)),
        ...     lengths=torch.tensor([2]),
        ...     packed_tokens=None,
        ... )
        >>> logits, boxes = torch.zeros(1, 5, 3), torch.rand(1, 5, 4).sort(-1).values.requires_grad_()
        >>> loss = softcache.detection_loss(logits, boxes, soft, temperature=2.0)
        >>> loss.backward()
    """
    _check(student_logits, student_boxes, soft)
    matched = match_detections(student_logits, student_boxes, soft) if matched is None else matched
    soft = soft.to(student_logits.device)
    chosen = matched[soft.mask] if matched.shape == soft.mask.shape and matched.dtype == torch.int64 else None
    if chosen is None or bool(((chosen < 0) | (chosen >= student_logits.shape[1])).any()):
        raise TaskError(
            f"matched is {list(matched.shape)}; expected a prediction for each box of {list(soft.mask.shape)}"
        )
    picked = matched.clamp(min=0)[..., None]
    logits = student_logits.gather(1, picked.expand(-1, -1, student_logits.shape[2]))
    boxes = student_boxes.gather(1, picked.expand(-1, -1, 4))[soft.mask].float()
    targets = soft.parts["boxes"][soft.mask]
    overlap = _generalised_overlap(_corners(boxes, soft)[:, None], _corners(targets, soft)[:, None])[:, 0, 0]
    of_boxes = box_weight * (boxes - targets).abs().sum(1) + overlap_weight * (1 - overlap)
    of_classes = distillation_loss(logits, soft, temperature)
    return of_classes + of_boxes.sum() / soft.mask.sum().clamp(min=1)


def _check(student_logits: torch.Tensor, student_boxes: torch.Tensor, soft: SoftSequences) -> None:
    if "boxes" not in soft.task.parts or not isinstance(soft, SoftSequences):
        raise TaskError(f"a {soft.task.kind} target has no boxes")
    if student_logits.ndim != 3 or student_boxes.shape != (*student_logits.shape[:2], 4):
        raise TaskError(
            f"student logits are {list(student_logits.shape)} and boxes {list(student_boxes.shape)}; expected "
            f"[{len(soft)}, Q, {soft.task.label_space}] and [{len(soft)}, Q, 4]"
        )
    if soft.task.known is not None:
        raise TaskError("the teacher knows only some classes; matching needs all of them")
    if len(student_logits) != len(soft) or student_logits.shape[2] != soft.task.label_space:
        raise TaskError(
            f"student logits are {list(student_logits.shape)}; expected [{len(soft)}, Q, {soft.task.label_space}]"
        )
    if not bool(student_boxes.isfinite().all()) or bool(student_logits.isnan().any()):
        raise TaskError("the student's boxes or logits are not finite")
    if int(soft.mask.sum(1).max().item() if soft.mask.numel() else 0) > student_logits.shape[1]:
        raise TaskError(f"the student predicts {student_logits.shape[1]} boxes; a sample has {soft.mask.shape[1]}")


def _corners(boxes: torch.Tensor, soft: SoftSequences) -> torch.Tensor:
    """Return boxes [..., 4] as their corners x, y, x, y."""
    form = str(soft.task.boxes).removeprefix("relative_")
    if form == "xyxy":
        return boxes
    place, size = boxes[..., :2], boxes[..., 2:]
    low = place if form == "xywh" else place - size / 2
    return torch.cat([low, low + size], -1)


def _generalised_overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the generalised overlap of each of the corners [..., n, 4] with each of [..., m, 4], [..., n, m]."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    inside = _area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    around = _area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    union = _area(a) + _area(b) - inside
    tiny = torch.finfo(union.dtype).tiny
    return inside / union.clamp(min=tiny) - (around - union) / around.clamp(min=tiny)


def _area(corners: torch.Tensor) -> torch.Tensor:
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(-1)


def _assignment() -> Any:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise MissingExtra("matching detections needs scipy: pip install 'softcache[detection]'") from e
    return linear_sum_assignment
