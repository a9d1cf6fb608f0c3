"""Replayable augmentation: what a transform makes of a sample is the same wherever it is made (docs/format.md, 3.1)."""

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

from softcache.errors import AugmentationError

PARTNER = "partner"
Parameters = dict[str, Any]


class Augmentation:
    """A transform of the user's, made replayable.

    It is one of three:

    - a callable of a value. It draws from its argument `rng`, a `numpy.random.Generator`, or where it has none of that
      name, from the global generators of Python, NumPy and PyTorch, which are seeded for each view and afterwards as
      they were.
    - an object with `draw(value, rng)`, which returns parameters (JSON: numbers, strings, lists), and
      `apply(value, **parameters)`. The parameters are stored. Where `apply` has an argument `partner`, another sample
      is drawn to be mixed in, and its value given.
    - an object with `set_random_seed(seed)`, which is called as `transform(image=value)["image"]`, as albumentations
      are.

    A value is what `column` holds, or without `column` the whole sample, a dict, of which a transform returns those
    columns that it changes.
    """

    def __init__(self, transform: Any, *, seed: int = 0, column: str | int | None = None) -> None:
        """Raises AugmentationError for a transform that is none of the three."""
        self._transform, self._seed, self.column = transform, seed, column
        self.draws = callable(getattr(transform, "draw", None)) and callable(getattr(transform, "apply", None))
        if not self.draws and not callable(transform):
            raise AugmentationError(
                f"a {type(transform).__name__} is no transform: it can't be called, and has no draw and apply"
            )
        self.mixes = self.draws and PARTNER in _arguments(transform.apply)
        self._takes_rng = not self.draws and "rng" in _arguments(transform)
        own = self.draws or self._takes_rng or hasattr(transform, "set_random_seed")
        self.uses_global_generators = not own

    def parameters(self, sample: Any, sample_id: Any, view: int, ids: Any) -> Parameters:
        """Draw a view's parameters; `ids` are the samples (an Arrow array) of which one may be mixed in.

        Raises AugmentationError for parameters that are no JSON, and whatever `draw` raises.
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
        """Make a view: by its parameters where the transform draws them, else with generators seeded for it.

        `partner` is the sample that is mixed in. Call it under `kept_generators`. Whatever the transform raises comes
        through.
        """
        value = self.value(sample)
        if not self.draws:
            return self._seeded(value, view_seed(self._seed, sample_id, view))
        mixed = {} if partner is None else {PARTNER: self.value(partner)}
        return self._transform.apply(value, **((parameters or {}) | mixed))

    def place(self, sample: Any, made: Any) -> Any:
        """Return a sample, a dict or a tuple, with a view in place of what it was made of.

        Raises AugmentationError where a whole sample's view is no dict.
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
        """Return what of a sample the transform takes."""
        return dict(sample) if self.column is None else sample[self.column]

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
    """Return the states of the global generators of Python, NumPy and PyTorch (on the CPU), to be compared."""
    numpy = np.random.get_state(legacy=False)
    words = numpy["state"]["key"].tobytes(), numpy["state"]["pos"], numpy["has_gauss"]
    return random.getstate(), words, torch.default_generator.get_state().numpy().tobytes()


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators of Python, NumPy and PyTorch (on the CPU) as they were, whatever happens inside."""
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
    """Return numpy's and torch's numbers and arrays as Python's."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
