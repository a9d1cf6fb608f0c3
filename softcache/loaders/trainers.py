"""An adapter for the Trainer of transformers, and those that rest on it, as TRL's do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from softcache.distill.objective import Distillation, loss_labels
from softcache.errors import TaskError
from softcache.loaders.attach import AttachedDataset, collate
from softcache.loaders.packing import PackedDataset, collate_packs
from softcache.loaders.targets import SOFT
from softcache.loaders.views import ViewDataset

# What packed batches carry for attention kernels: models take these as keyword arguments that they do not name.
_FOR_KERNELS = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"})


POSITION = "position_in_softcache"


class Positions:
    """The positions of a dataset's samples, for trainers that take only `datasets.Dataset`s, as TRL's do."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def as_dataset(self) -> Any:
        """Return a `datasets.Dataset` of the positions."""
        import datasets

        return datasets.Dataset.from_dict({POSITION: range(len(self._data))})

    def collate(self, samples: Any, *, collator: Callable[[Any], Any]) -> Any:
        """Return the batch of samples, of which some trainers have only the positions."""
        if isinstance(samples, list) and samples and POSITION in samples[0]:
            samples = self._data.__getitems__([sample[POSITION] for sample in samples])
        if isinstance(self._data, PackedDataset):
            return collate_packs(samples)
        return collate(samples, samples=collator)


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
        data = kwargs.get("train_dataset")
        self._rows = Positions(data) if isinstance(data, (AttachedDataset, ViewDataset, PackedDataset)) else None
        if self._rows is not None and hasattr(super(), "_prepare_dataset"):
            kwargs["train_dataset"] = self._rows.as_dataset()
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:  # type: ignore[attr-defined]
            raise TaskError("DataParallel cannot split soft targets; start one process for each GPU with torchrun")
        collator = self.data_collator  # type: ignore[has-type]
        self.data_collator = functools.partial(collate, samples=collator)
        if self._rows is not None:
            self.data_collator = functools.partial(self._rows.collate, collator=collator)

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

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL tokenises and packs here, which the datasets of softcache need not and must not be."""
        if POSITION in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *args, **kwargs)  # type: ignore[misc]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if POSITION not in self._signature_columns:  # type: ignore[has-type]
            self._signature_columns = [*self._signature_columns, POSITION]  # type: ignore[has-type]

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
