"""Schedules for the temperature, for alpha, or for any other number that changes while a student trains.

A `Schedule` is a pure function of a count of steps or of epochs. It also keeps a count of its own, for plain loops.

Examples:
    >>> temperature = softcache.schedules.cosine(20.0, 1.0, epochs=10)
    >>> alpha = softcache.schedules.linear(0.75, 0.25, steps=1000)
    >>> temperature(0), temperature(10), alpha(500)
    (20.0, 1.0, 0.5)
    >>> for epoch in range(10):
    ...     temperature.step()
    >>> temperature.value
    1.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral
from typing import Any

from softcache.arrays import plain
from softcache.distill.checks import finite
from softcache.distill.saved import check_same
from softcache.errors import TaskError

__all__ = ["Schedule", "constant", "cosine", "exponential", "linear", "value_at"]


def _linear(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction


def _cosine(start: float, end: float, fraction: float) -> float:
    # sin² is (1 - cos) / 2, without its rounding error near 0.
    return _linear(start, end, math.sin(math.pi / 2 * fraction) ** 2)


def _exponential(start: float, end: float, fraction: float) -> float:
    return float(start ** (1 - fraction) * end**fraction)


CURVES = {"linear": _linear, "cosine": _cosine, "exponential": _exponential}


@dataclass(kw_only=True)
class Schedule:
    """A number that goes from `start` to `end`. Made by `constant`, `linear`, `cosine` and `exponential`.

    Attributes:
        curve: the name of the function that made it.
        start: the value at count 0.
        end: the value, bit for bit, from count `length` on.
        by: what is counted, `step` or `epoch`.
        length: after how many steps or epochs the end is reached.
        count: its own count, which `step()` raises.

    Examples:
        >>> schedule = softcache.schedules.linear(1.0, 0.0, epochs=4)
        >>> schedule.by, schedule(0.5), schedule.value
        ('epoch', 0.875, 1.0)
        >>> schedule.step()
        >>> resumed = softcache.schedules.linear(1.0, 0.0, epochs=4)
        >>> resumed.load_state_dict(schedule.state_dict())
        >>> resumed.value
        0.75
    """

    curve: str
    start: float
    end: float
    by: str
    length: float
    count: int = field(default=0, init=False)

    def __call__(self, count: float) -> float:
        """Return the value at a count of steps, or of epochs, of which fractions are allowed.

        Rounding never takes it beyond `start` and `end`. Raises TaskError for a count that is not a number from 0, or
        that is a fraction of a step; a constant has any count.
        """
        count = finite(f"the count of {self.by}s", count)
        if count < 0 or (self.by == "step" and self.length and not count.is_integer()):
            expected = "a whole number from 0: only epochs have fractions" if self.by == "step" else "0 or more"
            raise TaskError(f"the count of {self.by}s is {count}; expected {expected}")
        if count >= self.length:
            return self.end
        value = CURVES[self.curve](self.start, self.end, count / self.length)
        return min(max(value, min(self.start, self.end)), max(self.start, self.end))

    @property
    def value(self) -> float:
        """The value at the schedule's own count."""
        return self(self.count)

    def step(self) -> None:
        """Count one step or one epoch, whichever `by` says."""
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule and its count as plain numbers and strings, for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the count of a state.

        Raises TaskError with the differences if the state is of another schedule.
        """
        count = state["count"] if isinstance(state, Mapping) and "count" in state else None
        check_same("schedule", state, self.state_dict() | {"count": count})
        if type(count) is not int or count < 0:
            raise TaskError(f"the count in the state is {count!r}; expected an integer from 0")
        self.count = count


def constant(value: float) -> Schedule:
    """Return a schedule that always has the same value.

    Raises TaskError if it is not a finite number.

    Examples:
        >>> softcache.schedules.constant(4.0)(123)
        4.0
    """
    value = finite("value", value)
    return Schedule(curve="constant", start=value, end=value, by="step", length=0)


def linear(start: float, end: float, *, steps: int | None = None, epochs: float | None = None) -> Schedule:
    """Return a schedule that changes by the same amount in each step: start + (end - start) * count / length.

    Args:
        start: the value at the beginning, a finite number.
        end: the value after the given number of steps or epochs, and from then on.
        steps: the length in steps, an integer from 1.
        epochs: the length in epochs, a number above 0.

    Raises TaskError unless exactly one of `steps` and `epochs` is given, and all numbers are as described.

    Examples:
        >>> temperature = softcache.schedules.linear(20.0, 1.0, epochs=10)
        >>> temperature(0), temperature(5), temperature(10), temperature(11)
        (20.0, 10.5, 1.0, 1.0)
    """
    return _schedule("linear", start, end, steps, epochs)


def cosine(start: float, end: float, *, steps: int | None = None, epochs: float | None = None) -> Schedule:
    """Return a schedule that changes slowly at both ends: end + (start - end) * (1 + cos(pi * count / length)) / 2.

    This is the annealing of Loshchilov and Hutter 2017 (SGDR, eq. 5) without restarts. The arguments and errors are
    those of `linear`.

    Examples:
        >>> temperature = softcache.schedules.cosine(20.0, 1.0, epochs=10)
        >>> temperature(0), round(temperature(5), 6), temperature(10)
        (20.0, 10.5, 1.0)
    """
    return _schedule("cosine", start, end, steps, epochs)


def exponential(start: float, end: float, *, steps: int | None = None, epochs: float | None = None) -> Schedule:
    """Return a schedule that changes by the same factor in each step: start * (end / start) ** (count / length).

    The arguments and errors are those of `linear`; besides, `start` and `end` must be above 0, since no factor leads to
    or from 0.

    Examples:
        >>> temperature = softcache.schedules.exponential(16.0, 1.0, steps=4)
        >>> [round(temperature(step), 6) for step in range(6)]
        [16.0, 8.0, 4.0, 2.0, 1.0, 1.0]
    """
    schedule = _schedule("exponential", start, end, steps, epochs)
    if min(schedule.start, schedule.end) <= 0:
        raise TaskError(f"an exponential schedule goes from {start} to {end}; expected numbers above 0, or use linear")
    return schedule


def value_at(schedule: float | Schedule | Callable[[int], float], *, step: int, epoch: float) -> float:
    """Return the value of a number, of a schedule, or of a plain function of the step.

    Trainers call this with both counts; a schedule takes the one that it is made for.

    Args:
        schedule: a number is its own value. A `Schedule` is called with what its `by` names, anything else that can be
            called with the step. The schedule's own count plays no part.
        step: the count of optimizer steps so far.
        epoch: the count of epochs so far, with a fraction inside an epoch.

    Raises TaskError if the value is not a finite number, and as the schedule does.

    Examples:
        >>> temperature = softcache.schedules.linear(20.0, 1.0, epochs=10)
        >>> softcache.schedules.value_at(temperature, step=700, epoch=5.0)
        10.5
        >>> softcache.schedules.value_at(4.0, step=700, epoch=5.0)
        4.0
        >>> softcache.schedules.value_at(lambda step: 1 / (1 + step), step=3, epoch=0.0)
        0.25
    """
    if isinstance(schedule, Schedule):
        return schedule(step if schedule.by == "step" else epoch)
    if callable(schedule):
        return finite(f"the schedule's value at step {step}", schedule(step))
    return finite("the value", schedule)


def _schedule(curve: str, start: float, end: float, steps: int | None, epochs: float | None) -> Schedule:
    start, end = finite("start", start), finite("end", end)
    if not math.isfinite(end - start):
        raise TaskError(f"start is {start} and end is {end}; their difference is too large")
    if (steps is None) == (epochs is None):
        raise TaskError(f"steps is {steps} and epochs is {epochs}; give one of them, after which the value is {end}")
    by, given = ("step", steps) if epochs is None else ("epoch", epochs)
    length = finite(f"{by}s", given)
    if length <= 0 or (by == "step" and not isinstance(plain(given), Integral)):
        raise TaskError(f"{by}s is {given}; expected {'an integer from 1' if by == 'step' else 'a number above 0'}")
    return Schedule(curve=curve, start=start, end=end, by=by, length=length)
