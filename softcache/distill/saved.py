"""What a state must agree on with the object that loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softcache.errors import TaskError


def check_same(what: str, saved: Any, own: Mapping[str, Any]) -> None:
    """Raise TaskError naming the differences between the settings in a state and one's own."""
    if not isinstance(saved, Mapping) or not saved.keys() & own.keys():
        raise TaskError(f"{saved!r:.200} is not the state of a {what}; expected what state_dict() returned")
    changed = [name for name in {**own, **saved} if saved.get(name) != own.get(name)]
    if changed:
        differences = "; ".join(f"{name} is {saved.get(name)!r} there and {own.get(name)!r} here" for name in changed)
        raise TaskError(f"the state is of another {what}: {differences}. Make it as the saved run did")
