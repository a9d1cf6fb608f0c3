"""Schedules against their formulas: exact ends, no value outside them, the same after a resume."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softcache import schedules
from softcache.errors import TaskError

CURVES = [schedules.linear, schedules.cosine, schedules.exponential]
# Ends as temperatures and weights have them, and far beyond.
ENDS = st.floats(1e-6, 1e6) | st.sampled_from([0.1, 0.3, 0.7, 1.0, 20.0])


@pytest.mark.parametrize("make", CURVES)
@given(start=ENDS, end=ENDS, length=st.integers(1, 10**6), data=st.data())
def test_values_stay_between_the_ends(make, start: float, end: float, length: int, data: st.DataObject) -> None:
    schedule = make(start, end, steps=length)
    count = data.draw(st.integers(0, length))
    assert min(start, end) <= schedule(count) <= max(start, end)
    assert schedule(0) == start
    assert schedule(length) == schedule(length + count) == end


@pytest.mark.parametrize("make", CURVES)
@given(start=ENDS, end=ENDS, epochs=st.floats(1e-3, 1e4), fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_values_never_turn_back(make, start: float, end: float, epochs: float, fractions: tuple[float, float]) -> None:
    schedule = make(start, end, epochs=epochs)
    early, late = (schedule(epochs * f) for f in sorted(fractions))
    # Sines and powers are rounded: a step back may be as large as that, and no larger.
    rounding = 1e-12 * max(start, end)
    assert (late - early) * math.copysign(1, end - start) >= -rounding


@given(start=ENDS, end=ENDS, length=st.integers(1, 10_000), data=st.data())
def test_formulas(start: float, end: float, length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, length))
    exact = Fraction(start) + (Fraction(end) - Fraction(start)) * Fraction(count, length)
    assert schedules.linear(start, end, steps=length)(count) == pytest.approx(float(exact), abs=1e-14 * max(start, end))
    turned = end + (start - end) * (1 + math.cos(math.pi * count / length)) / 2
    assert schedules.cosine(start, end, steps=length)(count) == pytest.approx(turned, abs=1e-14 * max(start, end))
    powered = math.exp(math.log(start) + (math.log(end) - math.log(start)) * count / length)
    assert schedules.exponential(start, end, steps=length)(count) == pytest.approx(powered, rel=1e-12)


def test_exponential_has_one_factor() -> None:
    schedule = schedules.exponential(20.0, 1.0, steps=7)
    factors = [schedule(i + 1) / schedule(i) for i in range(7)]
    assert factors == pytest.approx([0.05 ** (1 / 7)] * 7)


def test_fractions_of_an_epoch() -> None:
    schedule = schedules.linear(20.0, 1.0, epochs=2)
    assert schedule(0.5) == 15.25
    assert schedules.linear(1.0, 0.0, epochs=0.5)(0.25) == 0.5
    with pytest.raises(TaskError, match="only epochs have fractions"):
        schedules.linear(20.0, 1.0, steps=2)(0.5)


def test_its_own_count() -> None:
    schedule = schedules.cosine(20.0, 1.0, epochs=3)
    seen = []
    for _ in range(5):
        seen.append(schedule.value)
        schedule.step()
    assert seen == [schedule(epoch) for epoch in range(5)]
    assert seen[3] == seen[4] == 1.0


@given(st.sampled_from(CURVES), ENDS, ENDS, st.integers(0, 40), st.booleans())
def test_a_resumed_schedule_goes_on(make, start: float, end: float, saved: int, by_epoch: bool) -> None:
    length = {"epochs": 30} if by_epoch else {"steps": 30}
    whole, first, resumed = (make(start, end, **length) for _ in range(3))
    for _ in range(saved):
        first.step()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    values = []
    for count in range(45):
        values.append(whole.value)
        if count >= saved:
            assert resumed.value == whole.value
            resumed.step()
        whole.step()
    assert len(set(values)) > 1 or start == end


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (schedules.linear(20.0, 2.0, epochs=5), "end is 2.0 there and 1.0 here"),
        (schedules.cosine(20.0, 1.0, epochs=5), "curve is 'cosine' there and 'linear' here"),
        (schedules.linear(20.0, 1.0, steps=5), "by is 'step' there and 'epoch' here"),
        (schedules.linear(20.0, 1.0, epochs=6), "length is 6.0 there and 5.0 here"),
        (schedules.constant(20.0), "curve is .*; end is .*; by is"),
    ],
)
def test_a_state_of_another_schedule(other: schedules.Schedule, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        schedules.linear(20.0, 1.0, epochs=5).load_state_dict(other.state_dict())


@pytest.mark.parametrize("change", [{"count": -1}, {"count": 1.5}, {"count": None}, {"count": True}, {"more": 1}])
def test_no_state_of_a_schedule(change: dict) -> None:
    schedule = schedules.linear(20.0, 1.0, epochs=5)
    with pytest.raises(TaskError, match="state"):
        schedule.load_state_dict(schedule.state_dict() | change)
    for state in ({}, None, {"value": 3}):
        with pytest.raises(TaskError, match="not the state of a schedule"):
            schedule.load_state_dict(state)
    with pytest.raises(TaskError, match="curve is None there and 'linear' here"):
        schedule.load_state_dict({"count": 3})
    assert schedule.count == 0


def test_value_at_takes_what_it_is_given() -> None:
    by_step, by_epoch = schedules.linear(0.0, 1.0, steps=10), schedules.linear(0.0, 1.0, epochs=4)
    for _ in range(3):
        by_step.step()
    assert schedules.value_at(by_step, step=5, epoch=1.0) == 0.5
    assert schedules.value_at(by_epoch, step=5, epoch=1.0) == 0.25
    assert schedules.value_at(schedules.constant(3), step=5, epoch=0.5) == 3.0
    assert schedules.value_at(lambda step: step / 10, step=5, epoch=1.0) == 0.5
    assert schedules.value_at(lambda step: torch.tensor(2.5), step=5, epoch=1.0) == 2.5
    for number in (4, 4.0, np.float32(4), torch.tensor(4.0)):
        found = schedules.value_at(number, step=5, epoch=1.0)
        assert (type(found), found) == (float, 4.0)
    for wrong in ("4", None, True, float("nan"), torch.ones(2), lambda step: math.inf, lambda step: None):
        with pytest.raises(TaskError, match="expected a finite number"):
            schedules.value_at(wrong, step=5, epoch=1.0)


@pytest.mark.parametrize("make", CURVES)
@pytest.mark.parametrize(
    ("ends", "length", "match"),
    [
        ((1, 2), {}, "give one of them"),
        ((1, 2), {"steps": 3, "epochs": 3}, "give one of them"),
        ((1, 2), {"steps": 0}, "an integer from 1"),
        ((1, 2), {"steps": 2.5}, "an integer from 1"),
        ((1, 2), {"steps": -3}, "an integer from 1"),
        ((1, 2), {"steps": True}, "a finite number"),
        ((1, 2), {"epochs": 0}, "above 0"),
        ((1, 2), {"epochs": math.inf}, "a finite number"),
        ((math.nan, 2), {"steps": 3}, "start is nan"),
        ((1, math.inf), {"steps": 3}, "end is inf"),
        (("20", 2), {"steps": 3}, "start is '20'"),
        ((-1e308, 1.7e308), {"steps": 3}, "too large"),
    ],
)
def test_wrong_use(make, ends: tuple, length: dict, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        make(*ends, **length)


def test_a_constant_has_any_count() -> None:
    assert [schedules.constant(4.0)(count) for count in (0, 0.5, 7)] == [4.0, 4.0, 4.0]
    with pytest.raises(TaskError, match="expected a finite number"):
        schedules.constant(10**400)


@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (-1, 1), (-2, -1)])
def test_exponential_refuses_zero(ends: tuple[float, float]) -> None:
    with pytest.raises(TaskError, match="above 0, or use linear"):
        schedules.exponential(*ends, steps=3)


@pytest.mark.parametrize("count", [-1, math.nan, math.inf, "3", None])
def test_wrong_counts(count) -> None:
    for schedule in (schedules.linear(1, 2, epochs=3), schedules.constant(3.0)):
        with pytest.raises(TaskError, match="the count of"):
            schedule(count)
