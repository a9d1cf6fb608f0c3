"""An adapter for the Trainer of transformers, and those that rest on it, as TRL's do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import default_collate

from softcache.distill.objective import Distillation, check_positions, loss_labels
from softcache.errors import TaskError
from softcache.loaders.targets import SOFT
from softcache.loaders.trainer_batches import OURS, POSITION, Batches, has_soft_targets
from softcache.soft.sequences import SoftSequences

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

    # For the Trainer: what compute_loss returns need not be divided by the number of accumulated batches. Trainers
    # older than 5.19 do not ask.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, distillation: Distillation, **kwargs: Any) -> None:
        if not hasattr(super(), "loss_is_scaled_for_ga"):
            raise TaskError("TrainerMixin needs transformers 5.19 or later, and a Trainer after it among the bases")
        self.distillation = distillation
        options = kwargs.get("args", args[1] if len(args) > 1 else None)
        if getattr(options, "label_smoothing_factor", 0):
            raise TaskError(
                "label_smoothing_factor would smooth nothing here; use softcache.Distillation(label_smoothing=)"
            )
        self._batches = batches = Batches(default_collate)
        if has_soft_targets(kwargs.get("train_dataset")) and hasattr(super(), "_prepare_dataset"):
            kwargs["train_dataset"] = batches.positions_of(kwargs["train_dataset"])
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:  # type: ignore[attr-defined]
            raise TaskError("DataParallel cannot split soft targets; start one process for each GPU with torchrun")
        batches.collator, self.data_collator = self.data_collator, batches  # type: ignore[has-type]
        if self.args.remove_unused_columns:  # type: ignore[attr-defined]
            self._set_signature_columns_if_needed()
            # The labels are for the loss, whether or not the model takes any.
            batches.columns = frozenset([*self._signature_columns, "labels"])  # type: ignore[has-type]

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
        logits = logits_of(outputs)
        if isinstance(soft, SoftSequences) and soft.task.traits.has_tokens and "input_ids" in inputs:
            check_positions(logits, inputs["input_ids"], soft)
        state = self.state  # type: ignore[attr-defined]
        loss = self.distillation.loss(
            logits,
            soft,
            loss_labels(inputs, soft),
            step=state.global_step,
            epoch=state.epoch or 0.0,
            num_items=num_items_in_batch if model.training else None,
        )
        if not return_outputs:
            return loss
        # The Trainer takes the first of a tuple for the loss.
        return loss, outputs if isinstance(outputs, Mapping) else (loss, *_as_tuple(outputs))

    def prediction_step(
        self, model: Any, inputs: Mapping[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return the loss, logits and labels of a batch of an evaluation set.

        Without the labels that a model's own loss needs, the Trainer would ask the model alone.
        """
        names = self.label_names  # type: ignore[attr-defined]
        if SOFT not in inputs or (names and all(inputs.get(name) is not None for name in names)):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)  # type: ignore[misc,no-any-return]
        inputs = self._prepare_inputs(inputs)  # type: ignore[attr-defined]
        with torch.no_grad(), self.compute_loss_context_manager():  # type: ignore[attr-defined]
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, logits_of(outputs if isinstance(outputs, Mapping) else outputs[1:]), inputs.get("labels")

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL tokenises and packs here, which the datasets of softcache need not and must not be."""
        if has_soft_targets(dataset):
            return self._batches.positions_of(dataset)
        if POSITION in (dataset.column_names or ()):
            return dataset
        return super()._prepare_dataset(dataset, *args, **kwargs)  # type: ignore[misc]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[misc]
        if POSITION not in self._signature_columns:  # type: ignore[has-type]
            self._signature_columns = [*self._signature_columns, *OURS]  # type: ignore[has-type]

    def _count(self, batch: Mapping[str, Any]) -> torch.Tensor:
        if SOFT not in batch:
            raise self._no_soft(batch)
        return self.distillation.count(batch[SOFT], loss_labels(batch, self.distillation.choose(batch[SOFT])))

    def _model_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the model's forward takes, without labels: it need not compute a loss of its own.

        Raises TaskError if it takes no position ids and the batch has some: packed samples would see each other.
        """
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)  # type: ignore[attr-defined]
        takes = _taken(unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped)
        given = {name: value for name, value in inputs.items() if name not in (SOFT, "labels", "shift_labels")}
        passed = given if takes is None else {name: value for name, value in given.items() if name in takes}
        if "position_ids" in given and "position_ids" not in passed:
            raise TaskError(
                f"{type(unwrapped).__name__}.forward takes no position_ids, so the samples of a pack would see each "
                "other; train this model on padded samples, softcache.attach"
            )
        if "position_ids" in passed and _may_cache(unwrapped, takes):
            # With a cache transformers does not look for packed samples, which then see each other.
            passed["use_cache"] = False
        return passed

    def _no_soft(self, inputs: Mapping[str, Any]) -> TaskError:
        return TaskError(
            f"a training batch has no soft targets, only {', '.join(inputs)}: train on softcache.attach(dataset, ...), "
            "or for a streaming dataset give data_collator=softcache.join_collate(...) and remove_unused_columns=False"
        )


def logits_of(outputs: Any) -> torch.Tensor:
    """Return the logits among a model's outputs: a mapping, a tuple with the logits first, or the logits alone."""
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, Mapping) else _as_tuple(outputs)[0]
    return logits


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _taken(model: Any) -> set[str] | None:
    """Return the names of what a model's forward takes; None if it takes whatever is given."""
    import transformers

    parameters = inspect.signature(model.forward).parameters
    named = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return named
    # Models of transformers name their inputs, and take only arguments for kernels beside them.
    return named | _FOR_KERNELS if isinstance(model, transformers.PreTrainedModel) else None


def _may_cache(model: Any, takes: set[str] | None) -> bool:
    """Whether a model takes `use_cache`, or hands what it takes on to one that does."""
    import transformers

    if takes is not None:
        return "use_cache" in takes
    return any(isinstance(module, transformers.PreTrainedModel) for module in model.modules())
