"""Intermediate features: the outputs of modules inside a model, by dotted name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from softcache.errors import TeacherError
from softcache.settings import Settings


class Hook(Settings):
    """A module whose output becomes an output of the teacher, and how it is pooled. Its last run counts.

    `pool` is one of:

    - `none`: the output as it is;
    - `places`: the mean over all axes after the first two, [B, C, ...] to [B, C];
    - `tokens`: the mean over the second axis, without padding, [B, L, D] to [B, D];
    - `first`: the first entry of the second axis that is not padding, [B, L, D] to [B, D].
    """

    module: str
    pool: Literal["none", "places", "tokens", "first"] = "none"


Hooks = dict[str, Hook]


@contextmanager
def hooked(model: torch.nn.Module, hooks: Mapping[str, Hook], mask: torch.Tensor | None) -> Iterator[dict[str, Any]]:
    """Collect the modules' outputs while the model runs, pooled, by the hooks' names.

    `mask` [B, L] is 0 where a token is padding. Raises TeacherError if a module does not exist, does not run, or has an
    output that cannot be pooled this way.
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
    """Return what to declare for a target whose answer comes from a hook. Other targets do not depend on the hook."""
    return {"hook": hooks[output].model_dump()} if output in hooks else {}


def with_hooks(answers: dict[str, Any], collected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return a model's answers and what its hooks collected. Raises TeacherError if a name is in both."""
    both = sorted(answers.keys() & collected.keys())
    if both:
        raise TeacherError(f"hooks: {', '.join(both)} is also an output of the model; give the hook another name")
    return answers | collected


def module_named(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return the module with a dotted name. Raises TeacherError that lists its neighbours if it does not exist."""
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
        return values.clone()  # the next module may change it in place
    if values.ndim < 3:
        raise TeacherError(
            f"hooks: {hook.module} returns shape {list(values.shape)}, which pool {hook.pool!r} does not take; use none"
        )
    if hook.pool == "places":
        return values.flatten(2).mean(2)
    if mask is None or bool(mask.all()):
        return values[:, 0] if hook.pool == "first" else values.mean(1)
    if mask.shape != values.shape[:2]:
        raise TeacherError(
            f"hooks: {hook.module} returns shape {list(values.shape)} for inputs of shape {list(mask.shape)}, so its "
            "padding is unknown; use batch_size 1, or pool: none"
        )
    if hook.pool == "first":
        return values[torch.arange(len(values), device=values.device), mask.long().argmax(1)]
    weights = mask.to(values)[:, :, None]
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
