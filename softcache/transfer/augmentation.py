"""Replayable augmentation: a view of a sample is the same wherever it is made (docs/format.md, section 3.1)."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from softcache.errors import AugmentationError, name_some

PARTNER = "partner"
Parameters = dict[str, Any]


class Augmentation:
    """A user's transform, made replayable.

    The transform is one of these:

    - A callable that takes a value. If it has an argument `rng`, it draws from that `numpy.random.Generator`. Otherwise
      it draws from the global generators of Python, NumPy and PyTorch, which are seeded for each view and restored
      afterwards.
    - An object with `draw(value, rng)`, which returns parameters (JSON: numbers, strings, lists), and
      `apply(value, **parameters)`. The parameters are stored. If `apply` has an argument `partner`, another sample is
      drawn to be mixed in, and `partner` is its value.
    - An object with `set_random_seed(seed)`, called as `transform(image=value)["image"]`. Transforms of albumentations
      work this way.

    A value is what the sample's `column` holds. Without `column` it is the whole sample, a dict, and the transform
    returns a dict of the columns that it changes.
    """

    def __init__(self, transform: Any, *, seed: int = 0, column: str | int | None = None) -> None:
        """Take a transform. Raises AugmentationError if it is none of the above."""
        self._transform, self._seed, self.column = transform, seed, column
        self.draws = callable(getattr(transform, "draw", None)) and callable(getattr(transform, "apply", None))
        if not self.draws and not callable(transform):
            raise AugmentationError(
                f"a {type(transform).__name__} is not a transform: it is not callable, and does not have draw and apply"
            )
        self.mixes = self.draws and PARTNER in _arguments(transform.apply)
        self._takes_rng = not self.draws and "rng" in _arguments(transform)
        is_given_randomness = self.draws or self._takes_rng or hasattr(transform, "set_random_seed")
        self.uses_global_generators = not is_given_randomness

    def parameters(self, sample: Any, sample_id: Any, view: int, ids: Any) -> Parameters:
        """Draw a view's parameters. `ids`, an Arrow array, are the samples from which a partner is drawn.

        Raises AugmentationError unless they are a dict that can be stored as JSON, and whatever `draw` raises.
        """
        rng = np.random.Generator(np.random.PCG64(view_seed(self._seed, sample_id, view)))
        drawn = self._transform.draw(self.value(sample), rng)
        try:
            parameters = json.loads(json.dumps(drawn, default=_as_json, allow_nan=False))
        except (TypeError, ValueError) as e:
            raise AugmentationError(f"draw returned {drawn!r:.200}, which cannot be stored as JSON: {e}") from e
        if not isinstance(parameters, dict) or PARTNER in parameters:
            raise AugmentationError(f"draw returned {drawn!r:.200}; expected a dict, without {PARTNER!r}")
        partner = {PARTNER: ids[int(rng.integers(len(ids)))].as_py()} if self.mixes else {}
        return parameters | partner

    def view(
        self, sample: Any, sample_id: Any, view: int, parameters: Parameters | None = None, partner: Any = None
    ) -> Any:
        """Make a view: from its parameters if the transform draws them, otherwise with generators seeded for the view.

        `partner` is the sample that is mixed in. Call this inside `kept_generators`. Errors of the transform pass
        through unchanged.
        """
        value = self.value(sample)
        if not self.draws:
            return self._seeded(value, view_seed(self._seed, sample_id, view))
        mixed = {} if partner is None else {PARTNER: self.value(partner)}
        return self._transform.apply(value, **((parameters or {}) | mixed))

    def place(self, sample: Any, made: Any) -> Any:
        """Return a sample, a dict or a tuple, with the view `made` in place of the value that it was made from.

        Raises AugmentationError if the view of a whole sample is not a dict.
        """
        if self.column is None:
            if not isinstance(made, Mapping):
                kind = type(made).__name__
                raise AugmentationError(f"the transform returned {kind}; of whole samples it returns a dict")
            return dict(sample) | dict(made)
        if isinstance(sample, Mapping):
            return dict(sample) | {self.column: made}
        values = list(sample)
        values[int(self.column)] = made
        return tuple(values)

    def value(self, sample: Any) -> Any:
        """Return the value of a sample that the transform takes. Raises AugmentationError if it has none."""
        try:
            return dict(sample) if self.column is None else sample[self.column]
        except (LookupError, TypeError, ValueError) as e:
            has = name_some(sample) if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
            raise AugmentationError(f"the sample has no {self.column!r} to augment, only {has}") from e

    def _seeded(self, value: Any, seed: int) -> Any:
        if self._takes_rng:
            return self._transform(value, rng=np.random.Generator(np.random.PCG64(seed)))
        low, high = seed & 0xFFFFFFFF, seed >> 32
        if hasattr(self._transform, "set_random_seed"):
            self._transform.set_random_seed(low)
            return self._transform(image=value)["image"]
        random.seed(seed)
        np.random.seed([low, high])
        torch.default_generator.manual_seed(seed)
        return self._transform(value)


def generator_states() -> tuple[object, ...]:
    """Return the states of the global generators of Python, NumPy and PyTorch (on the CPU), to compare them."""
    numpy = np.random.get_state(legacy=False)
    words = numpy["state"]["key"].tobytes(), numpy["state"]["pos"], numpy["has_gauss"]
    return random.getstate(), words, torch.default_generator.get_state().numpy().tobytes()


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and PyTorch (on the CPU) on leaving, whatever happens inside."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(pytorch)


def view_seed(seed: int, sample_id: Any, view: int) -> int:
    """Return the seed of a view, from 0 to 2^64 - 1 (docs/format.md, section 3.1)."""
    if isinstance(sample_id, str):
        text = sample_id.encode()
        named = b"s" + struct.pack("<Q", len(text)) + text
    else:
        named = b"i" + struct.pack("<q", sample_id)
    digest = hashlib.sha256(struct.pack("<q", seed) + named + struct.pack("<i", view)).digest()
    return int.from_bytes(digest[:8], "little")


def _arguments(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def _as_json(value: Any) -> Any:
    """Return a NumPy number or array, or a tensor, as Python numbers and lists. Raises TypeError for anything else."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
