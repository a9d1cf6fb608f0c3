"""FAMO against torchjd's own, and against its formulas in float64."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd.scalarization import FAMO as TorchjdFAMO  # noqa: N811

from softcache import multitask
from softcache.errors import TaskError

TASKS = ("a", "b", "c")
LOSSES = st.lists(st.tuples(*[st.floats(0.1, 100)] * 3), min_size=1, max_size=8)


def named(values: tuple[float, ...], tasks: tuple[str, ...] = TASKS) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in zip(tasks, values, strict=False)}


@settings(max_examples=40)
@given(LOSSES, st.integers(1, 3))
def test_it_is_torchjds_of_the_tasks_that_are_there(rows: list[tuple[float, float, float]], present: int) -> None:
    """Tasks that never come change nothing for the others: not the loss, its gradient, nor the weights."""
    weights, theirs = multitask.FAMO(TASKS, lr=0.1), TorchjdFAMO(present, lr=0.1)
    for row in rows:
        ours, stacked = named(row[:present]), torch.tensor(row[:present], requires_grad=True)
        loss, expected = weights({**ours, **dict.fromkeys(TASKS[present:])}), theirs(stacked)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        loss.backward()
        expected.backward()
        assert [x.grad.item() for x in ours.values()] == pytest.approx(stacked.grad.tolist(), rel=1e-5)
        after = [value * factor for value, factor in zip(row, (0.5, 0.9, 1.1), strict=True)]
        weights.update(named(tuple(after[:present])))
        theirs.update(torch.tensor(after[:present]))
    found = list(weights.state_dict()["_extra_state"]["state"]["logits"]["numbers"].values())
    assert found[:present] == pytest.approx(theirs.state_dict()["_w"].tolist(), rel=1e-5, abs=1e-6)
    assert found[present:] == [0.0] * (3 - present)


@settings(max_examples=40)
@given(LOSSES, st.randoms(use_true_random=False))
def test_by_hand(rows: list[tuple[float, float, float]], random) -> None:
    """The loss, its gradient and the update over the tasks that are present, in float64, with Adam written out."""
    weights = multitask.FAMO(TASKS, minimum={"b": -1.0}, lr=0.1, weight_decay=0.01)
    low = {"a": 0.0, "b": -1.0, "c": 0.0}
    w, m, v, t = (
        dict.fromkeys(TASKS, 0.0),
        dict.fromkeys(TASKS, 0.0),
        dict.fromkeys(TASKS, 0.0),
        dict.fromkeys(TASKS, 0),
    )
    for row in rows:
        there = [name for name in TASKS if random.random() < 0.7]
        values = {name: x for name, x in zip(TASKS, row, strict=True) if name in there}
        total = sum(math.exp(w[n]) for n in there)
        z = {n: math.exp(w[n]) / total for n in there}
        losses = {name: loss for name, loss in named(row).items() if name in there}
        loss = weights(losses)
        loss.backward()
        if not there:
            continue
        c = 1 / sum(z[n] / (values[n] - low[n]) for n in there)
        assert loss.item() == pytest.approx(
            sum(c * z[n] * math.log(values[n] - low[n]) for n in there), rel=1e-4, abs=1e-4
        )
        for n in there:
            assert losses[n].grad.item() == pytest.approx(c * z[n] / (values[n] - low[n]), rel=1e-4)
        after = {n: values[n] * random.uniform(0.5, 1.2) for n in there}
        weights.update({n: torch.tensor(x) for n, x in after.items()})
        fall = {n: math.log(values[n] - low[n]) - math.log(after[n] - low[n]) for n in there}
        mean = sum(z[n] * fall[n] for n in there)
        for n in there:
            t[n] += 1
            gradient = z[n] * (fall[n] - mean) + 0.01 * w[n]
            m[n], v[n] = 0.9 * m[n] + 0.1 * gradient, 0.999 * v[n] + 0.001 * gradient**2
            w[n] -= 0.1 * m[n] / (1 - 0.9 ** t[n]) / (math.sqrt(v[n] / (1 - 0.999 ** t[n])) + 1e-8)
        total = sum(math.exp(x) for x in w.values())
        expected = {n: math.exp(w[n]) / total for n in TASKS}
        # A gradient of nothing but rounding still moves Adam by lr: then the hand cannot tell the direction.
        if min(abs(fall[n] - mean) for n in there) < 1e-4:
            return
        assert weights.weights == pytest.approx(expected, abs=2e-3)


def test_saved_between_the_call_and_the_update() -> None:
    weights, resumed = multitask.FAMO(TASKS), multitask.FAMO(TASKS)
    for row in ((1.0, 2.0, 3.0), (2.0, 1.0, 0.5)):
        weights({**named(row), "c": None})
        resumed.load_state_dict(copy.deepcopy(weights.state_dict()))
        for one in (weights, resumed):
            one.update(named((0.5, 1.9)))
    assert repr(resumed.state_dict()) == repr(weights.state_dict())
    assert resumed.weights != multitask.FAMO(TASKS).weights


def test_a_state_may_be_loaded_again() -> None:
    """A rollback to a state in memory finds it as it was, whatever happened since the last one."""

    def step(weights: multitask.FAMO) -> dict[str, float]:
        for row in ((3.0, 1.0, 2.0), (1.0, 0.5, 2.0)):
            weights(named(row))
            weights.update(named(tuple(x * f for x, f in zip(row, (0.5, 0.9, 1.1), strict=True))))
        return weights.weights

    weights = multitask.FAMO(TASKS, lr=0.1)
    step(weights)
    saved, found = weights.state_dict(), []
    for _ in range(2):
        weights.load_state_dict(saved)
        found.append(step(weights))
    assert found[0] == found[1]
    assert weights.double().weights == found[0], "its state is no tensor of the module's"
    step(weights)


def test_update_belongs_to_a_call() -> None:
    weights = multitask.FAMO(TASKS)
    with pytest.raises(TaskError, match="Call the weights first"):
        weights.update(named((1.0, 2.0, 3.0)))
    weights({**named((1.0, 2.0)), "c": None})
    with pytest.raises(TaskError, match="the losses of 'a'; the last batch had those of 'a', 'b'"):
        weights.update(named((1.0,)))
    weights.update(named((1.0, 2.0)))
    with pytest.raises(TaskError, match="the last batch had those of no task"):
        weights.update(named((1.0, 2.0)))


def test_wrong_use() -> None:
    with pytest.raises(TaskError, match="minimum names unknown tasks 'x'"):
        multitask.FAMO(TASKS, minimum={"x": 0.0})
    for wrong in ({"lr": -1.0}, {"weight_decay": -1.0}, {"lr": math.nan}, {"lr": "x"}, {"minimum": [0.0, 1.0]}):
        with pytest.raises(TaskError, match=f"{next(iter(wrong))} is "):
            multitask.FAMO(TASKS, **wrong)
    weights = multitask.FAMO(TASKS, minimum={"b": 1.0})
    with pytest.raises(TaskError, match=r"'b' is 0\.5, below its minimum 1\.0"):
        weights({"a": torch.tensor(0.5), "b": torch.tensor(0.5)})
    with pytest.raises(TaskError, match=r"lr is 0\.1 there and 0\.025 here"):
        weights.load_state_dict(multitask.FAMO(TASKS, lr=0.1).state_dict())
