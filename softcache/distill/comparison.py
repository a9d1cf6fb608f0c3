"""The soft part of a loss: how far a student's distributions are from the teacher's, at a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import Decoder, SparseLogProbs, Temperature
from softcache.codecs.temperature import divided, lowest_temperature
from softcache.distill.by_rows import Rows
from softcache.distill.decoupled import DecoupledKL, TailAwareKL
from softcache.distill.divergences import DIVERGENCES, known_classes, student_buckets, teacher_buckets
from softcache.errors import TaskError
from softcache.soft.protocol import Soft

Divergence = str | DecoupledKL | TailAwareKL
TAILS = ("shaped", "lumped")


def is_by_label(divergence: Divergence) -> bool:
    """Whether a divergence needs each row's right class."""
    return isinstance(divergence, DecoupledKL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """The soft targets of a batch, ready to be compared with some of its rows at a time.

    Attributes:
        soft: the soft targets.
        divergence: what compares two distributions.
        tail: `shaped` or `lumped`.
        decoder: decodes single items.
        columns: the stored columns of all items, [N, ...].
        temperature: one for all items, or float32 [N].
        lowest: the lowest of them.
    """

    soft: Soft
    divergence: Divergence
    tail: str
    decoder: Decoder
    columns: Mapping[str, torch.Tensor]
    temperature: Temperature
    lowest: float

    @classmethod
    def of(cls, soft: Soft, divergence: Divergence, tail: str, temperature: Temperature) -> Comparison:
        """Return the comparison. Raises TaskError if the target cannot be compared in this way."""
        if tail not in TAILS:
            raise TaskError(f"tail is {tail!r}; expected one of {', '.join(TAILS)}")
        decoder, columns = soft.decoder.per_item(soft.columns)
        found = cls(
            soft=soft,
            divergence=divergence,
            tail=tail,
            decoder=decoder,
            columns=columns,
            temperature=soft.item_temperatures(temperature),
            lowest=lowest_temperature(temperature),
        )
        found._check()
        return found

    def _check(self) -> None:
        divergence, task = self.divergence, self.soft.task
        if isinstance(divergence, str) and divergence not in DIVERGENCES:
            raise TaskError(
                f"divergence is {divergence!r}; expected one of {', '.join(DIVERGENCES)}, or a softcache.DecoupledKL "
                "or softcache.TailAwareKL"
            )
        if divergence != "forward_kl" and not self.decoder.covers_all:
            raise TaskError(
                f"{divergence} needs the teacher's probability of every class; sampled classes give forward_kl"
            )
        if isinstance(divergence, str):
            return
        if task.activation != "softmax" or task.known is not None:
            raise TaskError(f"{divergence} needs a teacher with one distribution over all classes")
        if isinstance(divergence, TailAwareKL) and not self.decoder.has_shape:
            first = {name: column[:1] for name, column in self.columns.items()}
            if self.decoder.sparse_log_probs(first, 1.0) is not None:
                raise TaskError(
                    f"{divergence} needs the shape of the teacher's tail, and the target stores only its mass; build "
                    "it with a basis"
                )

    def divergences(self, logits: torch.Tensor, items: Rows, labels: torch.Tensor | None) -> torch.Tensor:
        """Return the divergences, at the temperature, of some rows of a student's logits [r, C].

        `items` are the stored items that answer these rows, and `labels` int64 [r] the rows' right classes, for a
        divergence that needs them. The result is [r], or with sigmoid [r, K], one for each of the teacher's classes.
        """
        own, at = {name: column[items] for name, column in self.columns.items()}, self._temperature_of(items)
        if self.soft.task.activation == "softmax":
            return self._softmax(logits, own, at, labels)
        return self._sigmoid(logits, own, at)

    def square_temperature(self, items: Rows, dtype: torch.dtype) -> Temperature:
        """Return T², one number or [r] in a dtype: it keeps the size of the gradients as T grows."""
        at = self._temperature_of(items)
        return (at.to(dtype) if isinstance(at, torch.Tensor) else at) ** 2

    def _temperature_of(self, items: Rows) -> Temperature:
        return self.temperature[items] if isinstance(self.temperature, torch.Tensor) else self.temperature

    def _softmax(
        self, logits: torch.Tensor, own: Mapping[str, torch.Tensor], at: Temperature, labels: torch.Tensor | None
    ) -> torch.Tensor:
        sparse = self._sparse(own, at)
        if sparse is None:
            log_p, log_q = self.decoder.log_probs(own, at), self._student(logits, at).log_softmax(1)
        else:
            log_p = teacher_buckets(sparse, self.soft.task.shape[0])
            log_q = student_buckets(self._student(logits, at), sparse)
        log_p = log_p.to(logits.dtype)
        if isinstance(self.divergence, str):
            return DIVERGENCES[self.divergence](log_p, log_q)
        if isinstance(self.divergence, TailAwareKL):
            return self.divergence.losses(log_p, log_q)
        assert labels is not None
        return self.divergence.losses(log_p, log_q, labels)

    def _student(self, logits: torch.Tensor, at: Temperature) -> torch.Tensor:
        """Return a student's logits / T, up to a constant for each row, for the teacher's classes."""
        return known_classes(divided(logits, _beside(logits, at), self.lowest), self.soft.task)

    def _sparse(self, own: Mapping[str, torch.Tensor], at: Temperature) -> SparseLogProbs | None:
        """Return the teacher's stored classes and the mass of the others; None if all classes are compared."""
        if not isinstance(self.divergence, str) or (self.tail == "shaped" and self.decoder.has_shape):
            return None
        return self.decoder.sparse_log_probs(own, at)

    def _sigmoid(self, logits: torch.Tensor, own: Mapping[str, torch.Tensor], at: Temperature) -> torch.Tensor:
        assert isinstance(self.divergence, str)
        student = known_classes(logits / _beside(logits, at), self.soft.task)
        log_q = torch.stack([F.logsigmoid(student), F.logsigmoid(-student)], -1)
        teacher = self.decoder.log_outcomes(own, at)
        return DIVERGENCES[self.divergence](teacher.to(logits.dtype), log_q)


def _beside(values: torch.Tensor, at: Temperature) -> Temperature:
    """Return temperatures, one or [r], so that values [r, ...] can be divided by them."""
    return at.to(values.dtype).view(-1, *(1,) * (values.ndim - 1)) if isinstance(at, torch.Tensor) else at
