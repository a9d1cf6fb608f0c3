"""Gradient surgery: the tasks' gradients are combined, not their losses. The methods are those of torchjd."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from softcache.distill.multitask.losses import Losses, loss_values, present_losses, task_names
from softcache.distill.multitask.shared import check_trained, trained
from softcache.errors import MissingExtra, TaskError, name_some

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator


class GradientSurgery:
    """Combine the tasks' gradients of the shared parameters with one of torchjd's aggregators, so that they agree.

    `backward` does the backward pass of a batch. Shared parameters get the aggregate of the tasks' gradients; each
    other parameter gets the sum of its gradients, as from `backward()` of the sum of the losses. An absent task has no
    part in either. There is one backward pass for each task, and the shared gradients of all tasks are in memory at
    once. DistributedDataParallel expects one pass, and cannot be used. There is no state; some aggregators draw random
    numbers (PCGrad, GradDrop, Random).

    Args:
        tasks: the names of the tasks, in the order of the rows that the aggregator sees.
        shared: the parameters that the tasks share, usually all of the trunk. Frozen ones are left out.
        aggregator: the name of a class in `torchjd.aggregation`: UPGrad (Quinton and Rey 2024), PCGrad (Yu et al.
            2020), MGDA (Désidéri 2012), IMTLG, AlignedMTL, ...; or an instance, if it needs settings, as CAGrad does.
            Those that keep a state (GradVac, NashMTL, ExcessMTL, PCD) are refused: torchjd cannot save it, and drops it
            when a task is absent.

    Raises MissingExtra without torchjd or a library that the aggregator needs, and TaskError for an aggregator that
    cannot be used, and no trained shared parameters.

    Examples:
        >>> trunk, heads = torch.nn.Linear(8, 32), {name: torch.nn.Linear(32, 10) for name in ("digit@a", "digit@b")}
        >>> surgery = softcache.multitask.GradientSurgery(heads, trunk.parameters(), "PCGrad")
        >>> hidden = trunk(torch.randn(3, 8))
        >>> loss = surgery.backward({name: head(hidden).square().mean() for name, head in heads.items()})
        >>> trunk.weight.grad.shape
        torch.Size([32, 8])
    """

    def __init__(
        self, tasks: Iterable[str], shared: Iterable[torch.nn.Parameter], aggregator: str | Aggregator = "UPGrad"
    ) -> None:
        self.tasks = task_names(tasks)
        self.aggregator = _aggregator(aggregator)
        self._shared = trained(shared)

    def backward(self, losses: Losses) -> torch.Tensor:
        """Add the gradients of a batch's losses to all `.grad`. Returns the sum of the losses, detached, for the log.

        Raises TaskError as task weights do, for a loss without gradient, if no loss depends on the shared parameters,
        and if the aggregator refuses the gradients.
        """
        present = present_losses(losses, self.tasks)
        loss_values(present)
        check_trained(present)
        if not present:
            return torch.zeros(())
        rows = self._rows(list(present.values()))
        self._aggregate(rows, list(present))
        return torch.stack([loss.detach() for loss in present.values()]).sum()

    def _rows(self, losses: list[torch.Tensor]) -> list[list[torch.Tensor | None]]:
        """Return each loss's gradients with respect to the shared parameters. All others get theirs in `.grad`."""
        before = [p.grad for p in self._shared]
        rows = []
        try:
            for number, loss in enumerate(losses, 1):
                for p in self._shared:
                    p.grad = None
                loss.backward(retain_graph=number < len(losses))  # type: ignore[no-untyped-call]
                rows.append([p.grad for p in self._shared])
        finally:
            for p, gradient in zip(self._shared, before, strict=True):
                p.grad = gradient
        return rows

    def _aggregate(self, rows: list[list[torch.Tensor | None]], names: list[str]) -> None:
        """Add the aggregate of the rows to the shared parameters that any of the losses depends on."""
        from torchjd.autojac import jac_to_grad

        reached = []
        for p, gradients in zip(self._shared, zip(*rows, strict=True), strict=True):
            if any(gradient is not None for gradient in gradients):
                p.jac = torch.stack([torch.zeros_like(p) if g is None else g for g in gradients])  # type: ignore[attr-defined]
                reached.append(p)
        if not reached:
            raise TaskError(f"no loss of {name_some(names)} depends on the shared parameters; give those of the trunk")
        try:
            jac_to_grad(reached, self.aggregator)
        except (ValueError, torch.linalg.LinAlgError) as e:  # type: ignore[attr-defined]
            raise TaskError(f"{self.aggregator} cannot combine the gradients of {name_some(names)}: {e}") from e


def _aggregator(given: str | Aggregator) -> Aggregator:
    """Return an aggregator by its name, or the one that is given, if it can be used."""
    try:
        import torchjd
        from torchjd import aggregation
    except ImportError as e:
        raise MissingExtra("gradient surgery needs torchjd: pip install 'softcache[multitask]'") from e
    made = _by_name(aggregation, given) if isinstance(given, str) else given
    if not isinstance(made, aggregation.Aggregator):
        raise TaskError(f"aggregator is {given!r:.100}; expected a torchjd aggregator, or its name")
    if any(isinstance(module, torchjd.Stateful) for module in made.modules()):
        raise TaskError(
            f"{made} keeps a state, which torchjd cannot save, and drops when a task is absent from a batch; choose "
            "one without, such as UPGrad"
        )
    return made


def _by_name(aggregation: ModuleType, name: str) -> object:
    """Return an aggregator of a class in `torchjd.aggregation` that needs no settings."""
    found = {
        n: c for n, c in vars(aggregation).items() if isinstance(c, type) and issubclass(c, aggregation.Aggregator)
    }
    if name not in found:
        raise TaskError(f"torchjd has no aggregator {name!r}; it has {', '.join(sorted(found))}")
    try:
        return found[name]()
    except ImportError as e:
        raise MissingExtra(f"{name}: {e}") from e
    except TypeError as e:
        raise TaskError(f"{name} cannot be made without settings ({e}); make it, and pass the instance") from e
