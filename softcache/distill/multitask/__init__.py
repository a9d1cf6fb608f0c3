"""Several tasks: dynamic weights for their losses, and surgery on their gradients.

Task weights turn the losses of a batch, by task name, into one loss. A task of which nothing counts in a batch, because
its labels are missing or no sample is covered, is absent: leave it out or pass None.

Examples:
    >>> soft = softcache.SoftBatch({n: t.lookup([0, 1, 2]) for n, t in softcache.open("runs/digits").items()})
    >>> trunk, heads = torch.nn.Linear(8, 32), {name: torch.nn.Linear(32, 10) for name in ("digit@a", "digit@b")}
    >>> weights = softcache.multitask.Uncertainty(heads)
    >>> hidden = trunk(torch.randn(3, 8))
    >>> losses = {
    ...     name: softcache.distillation_loss(head(hidden), soft[name], 4.0) if soft[name].mask.any() else None
    ...     for name, head in heads.items()
    ... }
    >>> weights(losses).backward()
"""

from softcache.distill.multitask.dwa import DWA
from softcache.distill.multitask.famo import FAMO
from softcache.distill.multitask.fixed import Fixed
from softcache.distill.multitask.gradnorm import GradNorm
from softcache.distill.multitask.surgery import GradientSurgery
from softcache.distill.multitask.uncertainty import Uncertainty
from softcache.distill.multitask.weights import TaskWeights

__all__ = ["DWA", "FAMO", "Fixed", "GradNorm", "GradientSurgery", "TaskWeights", "Uncertainty"]
