"""Metrics for choosing a teacher: how accurate a classifier is, and how well calibrated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from softcache.codecs.temperature import temper
from softcache.errors import MissingExtra

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
TOP = 5
BINS = 15
_LARGEST, _STEPS = 64.0, 60


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a classifier on labelled samples; None if a metric is not finite.

    Attributes:
        accuracy: how often the likeliest class is the label.
        top5: how often the label is among the five likeliest classes (among all, if there are fewer).
        f1: the mean F1 of the classes that occur in labels or answers.
        recall: for each class that occurs in the labels, by name or number, how often it is recognised.
        nll: the mean negative log-likelihood of the labels at T = 1, in nats.
        ece: the expected calibration error at T = 1, in 15 bins (Guo et al. 2017, section 2).
        fitted_temperature: the temperature with the lowest negative log-likelihood (Guo et al. 2017, section 4.2).
        fitted_nll, fitted_ece: `nll` and `ece` at that temperature.
        entropy: the mean entropy of the answers in nats, by temperature.
    """

    accuracy: float
    top5: float
    f1: float
    recall: dict[str, float]
    nll: float | None
    ece: float | None
    fitted_temperature: float | None
    fitted_nll: float | None
    fitted_ece: float | None
    entropy: dict[str, float]


def measure(logits: torch.Tensor, right: torch.Tensor, names: Sequence[str] | None = None) -> Metrics:
    """Return the metrics of logits, float32 [n, C], against the right classes, int64 [n].

    `names` are the classes' names, used in `recall`. Raises MissingExtra without torchmetrics.
    """
    of = _torchmetrics()
    classes, logits = logits.shape[1], logits.cpu()
    recall = of.multiclass_recall(logits, right, classes, average="none")
    fitted = fitted_temperature(logits, right)
    calibrated = temper(logits, fitted) if fitted is not None else None
    plain = temper(logits, 1.0)
    return Metrics(
        accuracy=float(of.multiclass_accuracy(logits, right, classes, average="micro")),
        top5=float(of.multiclass_accuracy(logits, right, classes, average="micro", top_k=min(TOP, classes))),
        f1=float(of.multiclass_f1_score(logits, right, classes, average="macro")),
        recall={str(c) if names is None else names[c]: float(recall[c]) for c in sorted(set(right.tolist()))},
        nll=_nll(plain, right),
        ece=_ece(of, plain, right),
        fitted_temperature=fitted,
        fitted_nll=None if calibrated is None else _nll(calibrated, right),
        fitted_ece=None if calibrated is None else _ece(of, calibrated, right),
        entropy={f"{t:g}": float(_entropy(temper(logits, t))) for t in TEMPERATURES},
    )


def fitted_temperature(logits: torch.Tensor, right: torch.Tensor) -> float | None:
    """Return the temperature in [1/64, 64] at which the labels are likeliest.

    The negative log-likelihood is convex in 1 / T. Its slope is the mean of the expected logit minus the label's logit.
    Returns None if a label is ruled out, or if all temperatures are equally good.
    """
    logits = logits.double()
    of_label = logits.gather(1, right[:, None])[:, 0]
    if not of_label.isfinite().all():
        return None

    def slope(beta: float) -> float:
        p = (logits * beta).softmax(1)
        expected = torch.where(p > 0, p * logits, 0.0).sum(1)
        return float((expected - of_label).mean())

    low, high = 1 / _LARGEST, _LARGEST
    if slope(low) == slope(high) == 0:
        return None
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def _nll(log_p: torch.Tensor, right: torch.Tensor) -> float | None:
    nll = float(torch.nn.functional.nll_loss(log_p.double(), right))
    return nll if math.isfinite(nll) else None


def _ece(of: Any, log_p: torch.Tensor, right: torch.Tensor) -> float:
    return float(of.multiclass_calibration_error(log_p.exp(), right, log_p.shape[1], n_bins=BINS))


def _entropy(log_p: torch.Tensor) -> torch.Tensor:
    return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0).sum(1).mean()


def _torchmetrics() -> Any:
    try:
        import torchmetrics.functional.classification as found
    except ImportError as e:
        raise MissingExtra("evaluate needs torchmetrics: pip install 'softcache[evaluate]'") from e
    return found
