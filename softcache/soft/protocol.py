"""What losses and loaders use of soft targets, whether a row is one item, a map or a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from softcache.arrays import Array
from softcache.codecs import Decoder, SparseLogProbs, Temperature
from softcache.soft.keys import RowKeys
from softcache.tasks import TaskSpec


class Soft(Protocol):
    """A batch of B stored answers of one target, which are N items in all.

    `SoftTargets` and `SoftSequences` are the two kinds. The `columns` have one entry for each stored item, and
    `decoder` turns them into values and distributions.
    """

    @property
    def decoder(self) -> Decoder:
        """What turns columns into values and distributions."""

    @property
    def columns(self) -> Mapping[str, torch.Tensor]:
        """The stored columns by name, in the stored dtype, the items first."""

    @property
    def keys(self) -> RowKeys:
        """The sample ids and views of the B samples."""

    @property
    def mask(self) -> torch.Tensor:
        """Bool, [B] or [B, L]: where the teacher's answer is stored."""

    @property
    def answered(self) -> torch.Tensor:
        """Bool [B]: which samples have an answer."""

    @property
    def task(self) -> TaskSpec:
        """The task that these rows answer."""

    @property
    def ids(self) -> Array:
        """Sample ids: numpy int64 [B], or objects (str) [B]."""

    @property
    def views(self) -> Array:
        """Views: numpy int32 [B]."""

    @property
    def values(self) -> torch.Tensor:
        """The stored values, rows first."""

    @property
    def parts(self) -> dict[str, torch.Tensor]:
        """The task's further numbers, float32, rows first."""

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""

    def log_probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return log p(T) of every class."""

    def probs(self, temperature: Temperature = 1.0) -> torch.Tensor:
        """Return p(T) of every class."""

    def sparse_log_probs(self, temperature: Temperature = 1.0) -> SparseLogProbs:
        """Return log p(T) of the stored classes, and the log of the others' mass."""

    def items_for(self, shape: Sequence[int], lengths: Any = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return which of a student's positions have an answer, and which stored item answers each.

        `shape` is the student's, without the classes, and `lengths` [B] the numbers of positions of its sequences, if
        it gives them. Both results are in one line [prod(shape)]: bool, and int64, or None where position i is answered
        by item i. Raises TaskError for a shape that does not fit, AlignmentError for other lengths than the teacher's.
        """

    def per_position(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return values [B] for each of a student's positions, in one line [prod(shape)]."""

    def item_temperatures(self, temperature: Temperature) -> Temperature:
        """Return one temperature for all stored items, if one is given, or from one for each sample [B] one for each.

        Raises TaskError for an invalid temperature.
        """

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the same answers on a device."""

    def pin_memory(self) -> Self:
        """Return the same answers in pinned memory."""

    def __len__(self) -> int:
        """Return the number of samples, B."""

    def __getitem__(self, rows: Any) -> Self:
        """Return the answers of some of the samples."""

    @classmethod
    def concatenate(cls, parts: Sequence[Any]) -> Self:
        """Return batches of one target as one."""
