"""Task weights: what every rule promises, and the rules of softcache's own against their formulas in float64."""

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_tasks import RULES, TASKS, Run, Student, batches

from softcache import multitask
from softcache.errors import TaskError

FIRST, SECOND = TASKS
EVERY = pytest.mark.parametrize("rule", RULES)
LOSS = st.floats(1e-3, 1e3)


def whole(student: Student, seed: int = 1) -> dict[str, torch.Tensor | None]:
    """Losses of a batch with both tasks."""
    x, _ = next(batches(seed, 1))
    return student.losses((x, dict.fromkeys(TASKS, True)))


def trained(rule: str, steps: int = 9) -> Run:
    run = Run(rule)
    for number, batch in enumerate(batches(3, steps)):
        run.step(number, batch)
    return run


def stored(weights: multitask.TaskWeights) -> dict[str, float]:
    """What a rule keeps for each task. FAMO's weights sum to 1, so that it keeps what their softmax is of."""
    if isinstance(weights, multitask.FAMO):
        return weights.state_dict()["_extra_state"]["state"]["logits"]["numbers"]
    return weights.weights


def saved(weights: multitask.TaskWeights) -> str:
    return repr(copy.deepcopy(weights.state_dict()))


@EVERY
def test_an_absent_task_has_no_part(rule: str) -> None:
    """It adds nothing to the loss, its weight stays, and no optimizer with momentum moves it."""
    for absent in TASKS:
        run = trained(rule)
        (present,) = {*TASKS} - {absent}
        before = stored(run.weights)[absent]
        x, _ = next(batches(5, 1))
        there = {present: True, absent: False}
        one, two = copy.deepcopy(run), copy.deepcopy(run)
        loss = one.weights(one.student.losses((x, there)))
        assert torch.equal(loss, two.weights({present: two.student.losses((x, there))[present]}))
        head = one.student.heads[TASKS.index(absent)]
        assert not any(torch.autograd.grad(loss, list(head.parameters()), allow_unused=True))
        run.step(0, (x, there))
        assert stored(run.weights)[absent] == before


@EVERY
def test_a_batch_without_any_task(rule: str) -> None:
    run = trained(rule)
    before, parameters = saved(run.weights), [p.clone() for p in run.student.parameters()]
    run.optimizer = torch.optim.SGD([*run.student.parameters(), *run.weights.parameters()], lr=1.0)
    for losses in ({}, {FIRST: None}, dict.fromkeys(TASKS)):
        loss = run.weights(losses)
        assert loss.item() == 0
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        if rule == "FAMO":
            run.weights.update(losses)
    run.step(0, (torch.zeros(2, 5), dict.fromkeys(TASKS, False)))
    assert saved(run.weights) == before
    assert all(map(torch.equal, parameters, run.student.parameters()))


@EVERY
@pytest.mark.parametrize("validating", ["eval", "no_grad"])
def test_validation_changes_nothing(rule: str, validating: str) -> None:
    run = trained(rule)
    before = saved(run.weights)
    other, losses = copy.deepcopy(run), whole(run.student)
    training = other.weights(whole(other.student))
    run.weights.train(validating != "eval")
    with torch.set_grad_enabled(validating != "no_grad"):
        assert torch.equal(run.weights(losses), training)
    assert saved(run.weights) == before


@EVERY
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 12))
def test_a_resumed_run_goes_on(rule: str, seed: int, cut: int) -> None:
    """Bit for bit, from a checkpoint that torch.load reads without running code."""
    run, resumed = Run(rule), Run(rule)
    for number, batch in enumerate(batches(seed, 14)):
        if number == cut:
            file = io.BytesIO()
            torch.save({name: part.state_dict() for name, part in run.parts().items()}, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            for name, part in resumed.parts().items():
                part.load_state_dict(state[name])
        run.step(number, batch)
        if number >= cut:
            resumed.step(number, batch)
            assert resumed.weights.weights == run.weights.weights
    assert saved(resumed.weights) == saved(run.weights)
    assert all(map(torch.equal, run.student.parameters(), resumed.student.parameters()))


@EVERY
def test_weights_can_be_copied_and_sent(rule: str) -> None:
    run = trained(rule)
    losses = {name: loss.detach().requires_grad_() for name, loss in whole(run.student).items()}
    if rule == "GradNorm":  # a copy has shared parameters of its own
        run.weights.eval()
    for other in (copy.deepcopy(run.weights), pickle.loads(pickle.dumps(run.weights))):
        assert torch.equal(other(losses), copy.deepcopy(run.weights)(losses))


@EVERY
def test_the_state_of_other_weights(rule: str) -> None:
    weights = trained(rule).weights
    before = saved(weights)
    for name, other in {**RULES, "tasks": lambda student: multitask.DWA(["x", "y"], temperature=3)}.items():
        if name != rule:
            with pytest.raises(TaskError, match=r"rule is .* there|tasks is .* there"):
                weights.load_state_dict(other(Student()).state_dict())
    state = weights.state_dict()
    state["_extra_state"] = "something else"
    with pytest.raises(TaskError, match="not the state of a rule"):
        weights.load_state_dict(state)
    parts = torch.nn.ModuleDict({"weights": weights})
    with pytest.raises(TaskError, match="tasks is"):
        parts.load_state_dict({f"weights.{k}": v for k, v in multitask.DWA(["x"]).state_dict().items()})
    assert saved(weights) == before


@EVERY
def test_wrong_losses(rule: str) -> None:
    student = Student()
    weights = RULES[rule](student)
    before = saved(weights)
    good = whole(student)
    wrong = {
        "of unknown tasks 'digit'": {**good, "digit": None},
        r"'value@b.2' is torch.float32 \[1\]": {**good, SECOND: torch.ones(1)},
        "'value@b.2' is torch.int64": {**good, SECOND: torch.tensor(1)},
        "'value@b.2' is 3.5": {**good, SECOND: 3.5},
        "'value@b.2' is nan": {**good, SECOND: torch.tensor(math.nan)},
        "'digit@a' is inf": {**good, FIRST: good[FIRST] * math.inf},
        "losses are a list": list(good.values()),
    }
    for match, losses in wrong.items():
        with pytest.raises(TaskError, match=match):
            weights(losses)
    assert saved(weights) == before


@EVERY
def test_backward_is_a_call_and_its_backward(rule: str) -> None:
    run, other = trained(rule), trained(rule)
    loss = run.weights(whole(run.student))
    loss.backward()
    found = other.weights.backward(whole(other.student))
    assert torch.equal(found, loss)
    assert not found.requires_grad
    for one, two in zip(run.student.parameters(), other.student.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("tasks", ["digit@a", [], ["a", "a"], [1, 2]])
def test_wrong_tasks(tasks) -> None:
    with pytest.raises(TaskError, match="tasks"):
        multitask.Uncertainty(tasks)


def test_fixed_weights() -> None:
    weights = multitask.Fixed({FIRST: 0.5, SECOND: 2})
    assert weights({FIRST: torch.tensor(3.0), SECOND: torch.tensor(4.0)}).item() == 9.5
    assert weights.weights == {FIRST: 0.5, SECOND: 2.0}
    for wrong in (-1.0, math.nan, math.inf, "1"):
        with pytest.raises(TaskError, match=r"'value@b\.2'"):
            multitask.Fixed({FIRST: 1.0, SECOND: wrong})
    with pytest.raises(TaskError, match="expected a dict of numbers"):
        multitask.Fixed([FIRST, SECOND])
    with pytest.raises(TaskError, match="weights is"):
        weights.load_state_dict(multitask.Fixed({FIRST: 1.0, SECOND: 2.0}).state_dict())


@given(st.lists(st.tuples(LOSS, st.floats(-3, 3)), min_size=2, max_size=2), st.booleans())
def test_uncertainty(rows: list[tuple[float, float]], squared: bool) -> None:
    """Value and gradients of equation 10, in terms of the variance itself."""
    weights = multitask.Uncertainty(TASKS, regression=[SECOND] if squared else ())
    for parameter, (_, s) in zip(weights.parameters(), rows, strict=True):
        parameter.data.fill_(s)
    losses = {name: torch.tensor(loss, dtype=torch.float64) for name, (loss, _) in zip(TASKS, rows, strict=True)}
    for loss in losses.values():
        loss.requires_grad_()
    weights(losses).backward()
    expected, factors = 0.0, (1.0, 0.5 if squared else 1.0)
    for (name, loss), parameter, factor in zip(losses.items(), weights.parameters(), factors, strict=True):
        variance = parameter.detach().double().exp()
        expected += factor / variance * loss.item() + variance.sqrt().log()
        assert loss.grad.item() == pytest.approx(float(factor / variance), rel=1e-5)
        assert parameter.grad.item() == pytest.approx(float(-factor / variance * loss.item() + 0.5), rel=1e-4, abs=1e-4)
        assert weights.weights[name] == pytest.approx(float(factor / variance), rel=1e-5)
    assert weights(losses).item() == pytest.approx(float(expected), rel=1e-5, abs=1e-5)


def test_uncertainty_settles_where_the_weight_is_half_the_inverse_loss() -> None:
    """The minimum over s of c exp(-s) L + s / 2 has c exp(-s) = 1 / 2L."""
    weights = multitask.Uncertainty(TASKS, regression=[SECOND])
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        weights.backward({FIRST: torch.tensor(0.2), SECOND: torch.tensor(3.0)})
        optimizer.step()
    assert weights.weights == pytest.approx({FIRST: 2.5, SECOND: 1 / 6}, rel=1e-4)
    with pytest.raises(TaskError, match="regression names unknown tasks 'x'"):
        multitask.Uncertainty(TASKS, regression=["x"])
    assert multitask.Uncertainty(TASKS, regression=(name for name in TASKS)).weights == dict.fromkeys(TASKS, 0.5)
    with pytest.raises(TaskError, match="expected a list of names"):
        multitask.Uncertainty(TASKS, regression=FIRST)


def test_nothing_to_go_back_through() -> None:
    with pytest.raises(TaskError, match="no loss has a gradient"):
        multitask.DWA(TASKS).backward({FIRST: torch.tensor(1.0)})
    for wrong in (None, 3, "digit@a", []):
        with pytest.raises(TaskError, match="expected a list of names"):
            multitask.DWA(wrong)  # type: ignore[arg-type]


EPOCHS = st.lists(st.lists(st.tuples(LOSS, LOSS), min_size=1, max_size=3), max_size=5)


@given(EPOCHS, st.floats(0.1, 10))
def test_dwa(epochs: list[list[tuple[float, float]]], temperature: float) -> None:
    """Against the formula, and against torchjd's where no task is ever absent."""
    from torchjd.scalarization import DWA as TorchjdDWA  # noqa: N811

    weights, theirs = multitask.DWA(TASKS, temperature), TorchjdDWA(temperature)
    averages: list[list[float]] = []
    for epoch in epochs:
        w = [1.0, 1.0] if len(averages) < 2 else [averages[-1][k] / averages[-2][k] for k in range(2)]
        shares = [math.exp((x - max(w)) / temperature) for x in w]
        expected = [2 * share / sum(shares) for share in shares]
        assert list(weights.weights.values()) == pytest.approx(expected, rel=1e-9)
        for values in epoch:
            losses = torch.tensor(values, dtype=torch.float64)
            found = weights(dict(zip(TASKS, losses, strict=True)))
            assert found.item() == pytest.approx(sum(e * v for e, v in zip(expected, values, strict=True)), rel=1e-9)
            assert found.item() == pytest.approx(theirs(losses).item(), rel=1e-9)
        averages.append([sum(values[k] for values in epoch) / len(epoch) for k in range(2)])
        weights.end_epoch()
        theirs.step()


@given(EPOCHS, st.randoms(use_true_random=False))
def test_dwa_does_not_see_absent_tasks(epochs: list[list[tuple[float, float]]], random) -> None:
    """A task's averages are those of the batches and epochs in which it was present."""
    weights = multitask.DWA(TASKS)
    averages: dict[str, list[float]] = {name: [] for name in TASKS}
    for epoch in epochs:
        seen: dict[str, list[float]] = {name: [] for name in TASKS}
        for values in epoch:
            present = {n: v for n, v in zip(TASKS, values, strict=True) if random.random() < 0.6}
            weights({n: torch.tensor(v, dtype=torch.float64) for n, v in present.items()})
            for name, value in present.items():
                seen[name].append(value)
        weights.end_epoch()
        for name, values in seen.items():
            averages[name] += [sum(values) / len(values)] if values else []
    ratios = [a[-1] / a[-2] if len(a) > 1 else 1.0 for a in averages.values()]
    shares = [math.exp((ratio - max(ratios)) / 2) for ratio in ratios]
    assert list(weights.weights.values()) == pytest.approx([2 * s / sum(shares) for s in shares], rel=1e-9)


def test_dwa_needs_losses_above_zero() -> None:
    weights = multitask.DWA(TASKS)
    weights({FIRST: torch.tensor(1.0), SECOND: torch.tensor(0.0)})
    before = saved(weights)
    with pytest.raises(TaskError, match=r"'value@b.2' is 0.0.*Pass None"):
        weights.end_epoch()
    assert saved(weights) == before
    for temperature in (0.0, -1.0, math.nan, None):
        with pytest.raises(TaskError, match="temperature"):
            multitask.DWA(TASKS, temperature)
