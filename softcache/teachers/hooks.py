"""Intermediate features: what a module of a model returns, by its dotted name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from softcache.errors import TeacherError
from softcache.settings import Settings


class Hook(Settings):
    """A module whose output, of its last run, is an output of the teacher, and how it is pooled.

    `pool` is `none`; `places`, the mean over all that follows the first two axes, [B, C, ...] to [B, C]; `tokens`, the
    mean over the second axis, [B, L, D] to [B, D], of those that are no padding; `first`, the first of the second axis.
    """

    module: str
    pool: Literal["none", "places", "tokens", "first"] = "none"


Hooks = dict[str, Hook]


@contextmanager
def hooked(model: torch.nn.Module, hooks: Mapping[str, Hook], mask: torch.Tensor | None) -> Iterator[dict[str, Any]]:
    """Collect outputs of modules while the model runs, pooled, by the hooks' names.

    `mask` [B, L] is 0 where a token is padding. Raises TeacherError for a module that is not there, or whose output
    cannot be pooled so.
    """
    found: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for name, hook in hooks.items():

            def keep(module: Any, inputs: Any, output: Any, name: str = name, hook: Hook = hook) -> None:
                found[name] = _pooled(hook, output, mask)

            stack.enter_context(_removing(module_named(model, hook.module).register_forward_hook(keep)))
        yield found
    absent = [hook.module for name, hook in hooks.items() if name not in found]
    if absent:
        raise TeacherError(f"hooks: the model did not run {', '.join(absent)}")


def declared_hook(hooks: Mapping[str, Hook], output: str) -> dict[str, Any]:
    """Return what is declared of a target whose answer is a hook's: other targets do not depend on it."""
    return {"hook": hooks[output].model_dump()} if output in hooks else {}


def with_hooks(answers: dict[str, Any], collected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return a model's answers and what its hooks have collected. Raises TeacherError where both have a name."""
    both = sorted(answers.keys() & collected.keys())
    if both:
        raise TeacherError(f"hooks: {', '.join(both)} is an output of the model too; give the hook another name")
    return answers | collected


def module_named(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return a module by its dotted name. Raises TeacherError naming those that are near."""
    try:
        return model.get_submodule(name)
    except AttributeError as e:
        parent = name.rpartition(".")[0]
        near = [n for n, _ in model.named_modules() if n.rpartition(".")[0] == parent]
        raise TeacherError(f"no module {name!r} in the model; beside it are {', '.join(near[:12]) or 'none'}") from e


@contextmanager
def _removing(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _pooled(hook: Hook, output: Any, mask: torch.Tensor | None) -> torch.Tensor:
    values = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(values, torch.Tensor):
        values = getattr(output, "last_hidden_state", None)
    if not isinstance(values, torch.Tensor):
        raise TeacherError(f"hooks: {hook.module} returns {type(output).__name__}; expected a tensor")
    if hook.pool == "none":
        return values.clone()  # the next module may work in place
    if values.ndim < 3:
        raise TeacherError(
            f"hooks: {hook.module} returns {list(values.shape)}, which cannot be pooled by {hook.pool!r}"
        )
    if hook.pool == "places":
        return values.flatten(2).mean(2)
    if mask is None or bool(mask.all()):
        return values[:, 0] if hook.pool == "first" else values.mean(1)
    if mask.shape != values.shape[:2]:
        raise TeacherError(
            f"hooks: {hook.module} returns {list(values.shape)} for inputs of {list(mask.shape)}: where its padding is "
            "cannot be told; use batch_size 1, or pool: none"
        )
    if hook.pool == "first":
        return values[torch.arange(len(values), device=values.device), mask.long().argmax(1)]
    weights = mask.to(values)[:, :, None]
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
