"""Adapters for the usual trainers: the Trainer of transformers (and of TRL), and Lightning."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from softcache.distill.objective import Distillation, loss_labels
from softcache.errors import TaskError
from softcache.loaders.attach import collate
from softcache.loaders.packing import PackedDataset, collate_packs
from softcache.loaders.targets import SOFT, Lookup, readables
from softcache.read.cache import Cache
from softcache.soft.readable import Readable

# What packed batches carry for attention kernels: models take these as keyword arguments that they do not name.
_FOR_KERNELS = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"})


class TrainerMixin:
    """Makes a Trainer of transformers or TRL learn from soft targets; it comes before the Trainer among the bases.

    Give it `distillation=` and a dataset of `softcache.attach`, `softcache.views` or `softcache.pack`. Its data
    collator, whichever it is, gets the samples; the mixin adds their soft targets. Batches without soft targets, as
    those of an evaluation set, have the Trainer's own loss.

    The loss of accumulated batches, and of several processes, is that of one large batch: each part is divided by the
    number of rows, or tokens, that count in it in the whole step. Schedules are read at the Trainer's global step and
    epoch, so a resumed run goes on where it was.

    Raises TaskError for `label_smoothing_factor` (use `Distillation(label_smoothing=)`), for DataParallel, and for
    training batches without soft targets.

    Examples:
        >>> import transformers
        >>> class DistillationTrainer(softcache.TrainerMixin, transformers.Trainer):
        ...     pass
    """

    # For the Trainer: what compute_loss returns need not be divided by the number of accumulated batches.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, distillation: Distillation, **kwargs: Any) -> None:
        self.distillation = distillation
        options = kwargs.get("args", args[1] if len(args) > 1 else None)
        if getattr(options, "label_smoothing_factor", 0):
            raise TaskError(
                "label_smoothing_factor would smooth nothing here; use softcache.Distillation(label_smoothing=)"
            )
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:  # type: ignore[attr-defined]
            raise TaskError("DataParallel cannot split soft targets; start one process for each GPU with torchrun")
        self.data_collator = _collator(self.train_dataset, self.data_collator)  # type: ignore[attr-defined, has-type]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the batches of a step, and how much of them counts in the soft and in the hard part, [2]."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        if not batches:
            return batches, None
        counted = torch.stack([self._count(batch) for batch in batches]).sum(0).to(device)
        world = self.accelerator.num_processes  # type: ignore[attr-defined]
        if world > 1:
            # Processes' gradients are averaged, so what all of them count is divided among them.
            counted = self.accelerator.gather(counted[None]).sum(0) / world  # type: ignore[attr-defined]
        return batches, counted

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, and the model's outputs if asked for."""
        if SOFT not in inputs:
            if model.training:
                raise self._no_soft(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        soft = self.distillation.choose(inputs[SOFT])
        outputs = model(**self._model_inputs(model, inputs))
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        state = self.state  # type: ignore[attr-defined]
        loss = self.distillation.loss(
            logits,
            soft,
            loss_labels(inputs, soft),
            step=state.global_step,
            epoch=state.epoch or 0.0,
            num_items=num_items_in_batch if model.training else None,
        )
        return (loss, outputs) if return_outputs else loss

    def _count(self, batch: Mapping[str, Any]) -> torch.Tensor:
        if SOFT not in batch:
            raise self._no_soft(batch)
        return self.distillation.count(batch[SOFT], loss_labels(batch, self.distillation.choose(batch[SOFT])))

    def _model_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model's forward takes, without labels: it need not compute a loss of its own."""
        forward = inspect.signature(self.accelerator.unwrap_model(model).forward)  # type: ignore[attr-defined]
        takes_more = any(p.kind is p.VAR_KEYWORD for p in forward.parameters.values())
        named = set(forward.parameters) | (_FOR_KERNELS if takes_more else set())
        return {name: value for name, value in inputs.items() if name in named - {"labels", "shift_labels"}}

    def _no_soft(self, inputs: Mapping[str, Any]) -> TaskError:
        return TaskError(
            f"a training batch has no soft targets, only {', '.join(inputs)}: train on softcache.attach(dataset, ...), "
            "or for a streaming dataset give data_collator=softcache.join_collate(...) and remove_unused_columns=False"
        )


def _collator(dataset: Any, samples: Any) -> Any:
    """Return what collates samples of a dataset as `samples` does, and adds their soft targets."""
    if isinstance(dataset, PackedDataset):
        return collate_packs
    return functools.partial(collate, samples=samples)


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
