"""An adapter for Lightning: soft targets for the training batches of a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softcache.errors import TaskError
from softcache.loaders.targets import Lookup, readables
from softcache.read.cache import Cache
from softcache.soft.readable import Readable


class LightningMixin:
    """Adds soft targets to the training batches of a LightningModule; it comes before LightningModule among the bases.

    Call `look_up` in `__init__`. Batches then come to `training_step` with their soft targets, as those of
    `softcache.join` do. Lightning shards the loader and moves the batch; validation and test batches stay as they are.

    Examples:
        >>> import lightning
        >>> class Student(softcache.LightningMixin, lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(64, 10)
        ...         self.look_up(softcache.open("runs/digits"), id="id", targets=["digit@a"])
        ...
        ...     def training_step(self, batch, index):
        ...         logits, soft = self.layer(batch["image"]), batch["soft"]["digit@a"]
        ...         return softcache.distillation_loss(logits, soft, temperature=4.0)
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters())
    """

    _lookup: Lookup | None = None

    def look_up(
        self,
        cache: Cache,
        *,
        id: str | int,
        targets: Sequence[str | Readable] | None = None,
        view: str | int | None = None,
        input_ids: str | int | None = None,
    ) -> None:
        """Say what is looked up for training batches. The arguments are those of `softcache.join`."""
        self._lookup = Lookup(readables(cache, targets), id, view=view, input_ids=input_ids)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch with its soft targets. Lightning calls this before it moves the batch to the device."""
        batch = super().on_before_batch_transfer(batch, dataloader_idx)  # type: ignore[misc]
        if not self.trainer.training:  # type: ignore[attr-defined]
            return batch
        if self._lookup is None:
            raise TaskError("nothing says what to look up: call self.look_up(cache, id=...) in __init__")
        return self._lookup.with_soft(batch)
