"""GradNorm against equation 2 of its paper, differentiated twice in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from two_tasks import TASKS, Student, batches

from softcache import multitask
from softcache.distill.multitask.gradnorm import weight_gradients
from softcache.errors import TaskError

FIRST, SECOND = TASKS
NUMBER = st.floats(1e-3, 1e3)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=5), st.floats(0, 3))
def test_gradient_of_the_weights(tasks: list[tuple[float, float, float]], alpha: float) -> None:
    w, norms, ratios = torch.tensor(tasks, dtype=torch.float64).unbind(1)
    w = w.clone().requires_grad_()
    scaled = w * norms
    targets = (scaled.mean() * (ratios / ratios.mean()) ** alpha).detach()
    (expected,) = torch.autograd.grad((scaled - targets).abs().sum(), w)
    names = [str(i) for i in range(len(tasks))]
    by_name = [dict(zip(names, values.tolist(), strict=True)) for values in (w.detach(), norms, ratios)]
    found = weight_gradients(*by_name, alpha)
    close = (scaled - targets).abs() < 1e-9 * scaled  # where rounding decides the sign
    assert list(found) == names
    assert ((torch.tensor(list(found.values())) - expected).abs() <= 1e-4 * norms)[~close].all()


class ByHand:
    """Algorithm 1 with a tensor and an Adam for each task."""

    def __init__(self, alpha: float, lr: float) -> None:
        self.w = {name: torch.ones((), dtype=torch.float64, requires_grad=True) for name in TASKS}
        self.adams = {name: torch.optim.Adam([w], lr=lr) for name, w in self.w.items()}
        self.alpha, self.first = alpha, {}

    def step(self, losses: dict[str, torch.Tensor], shared: list[torch.Tensor]) -> torch.Tensor:
        combined = sum(self.w[name].detach() * loss for name, loss in losses.items())
        norms = []
        for name, loss in losses.items():
            gradients = torch.autograd.grad(self.w[name] * loss, shared, create_graph=True)
            norms.append(torch.cat([g.flatten() for g in gradients]).norm())
            self.first.setdefault(name, loss.item())
        ratios = torch.tensor([loss.item() / self.first[name] for name, loss in losses.items()], dtype=torch.float64)
        g = torch.stack(norms)
        targets = (g.mean() * (ratios / ratios.mean()) ** self.alpha).detach()
        gradients = torch.autograd.grad((g - targets).abs().sum(), [self.w[name] for name in losses])
        left = 2 - sum(w.item() for name, w in self.w.items() if name not in losses)
        for name, gradient in zip(losses, gradients, strict=True):
            self.w[name].grad = gradient
            self.adams[name].step()
        total = sum(self.w[name].item() for name in losses)
        for name in losses:
            self.w[name].data *= left / total
        return combined


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_run_by_hand(alpha: float, seed: int) -> None:
    student = Student(seed, torch.float64)
    shared = list(student.trunk.parameters())
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    weights, by_hand = multitask.GradNorm(TASKS, shared, alpha, lr=0.03), ByHand(alpha, lr=0.03)
    for batch in batches(seed, 25, torch.float64):
        losses = {name: loss for name, loss in student.losses(batch).items() if loss is not None}
        before = weights.weights
        expected = by_hand.step(losses, shared).item() if losses else 0.0
        loss = weights(losses)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        assert weights.weights == pytest.approx({name: w.item() for name, w in by_hand.w.items()}, rel=1e-9)
        assert all(weights.weights[name] == before[name] for name in TASKS if name not in losses)
        assert sum(weights.weights.values()) == pytest.approx(2, rel=1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert weights.weights[FIRST] != pytest.approx(1, abs=0.05)


def test_the_students_gradient_is_that_of_the_weighted_loss() -> None:
    student = Student()
    weights = multitask.GradNorm(TASKS, student.trunk.parameters(), lr=0.1)
    x, _ = next(batches(0, 1))
    for _ in range(3):
        losses = student.losses((x, dict.fromkeys(TASKS, True)))
        expected = torch.autograd.grad(
            sum(weights.weights[name] * loss for name, loss in losses.items()), student.parameters(), retain_graph=True
        )
        student.zero_grad()
        weights.backward(losses)
        for p, gradient in zip(student.parameters(), expected, strict=True):
            assert torch.allclose(p.grad, gradient, rtol=1e-6)


def test_norms_become_equal() -> None:
    """With alpha 0 the weighted gradients of two tasks get one size, though one loss is a hundred times as large."""
    shared = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    weights = multitask.GradNorm(TASKS, [shared], alpha=0, lr=0.01)
    for _ in range(400):
        weights({FIRST: shared[0].square(), SECOND: 100 * shared[1].square()})
    assert weights.weights[FIRST] / weights.weights[SECOND] == pytest.approx(100, rel=0.6)
    assert min(weights.weights.values()) > 0


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=20), st.floats(0.01, 5), st.floats(0, 3))
def test_weights_stay_above_zero(sizes: list[tuple[float, float]], lr: float, alpha: float) -> None:
    shared = torch.nn.Parameter(torch.ones(2))
    weights = multitask.GradNorm(TASKS, [shared], alpha, lr)
    for first, second in sizes:
        weights({FIRST: first * shared[0] ** 2, SECOND: second * shared[1] ** 2})
        assert min(weights.weights.values()) > 0
        assert sum(weights.weights.values()) == pytest.approx(2)


def test_a_state_may_be_loaded_again() -> None:
    """A rollback to a state in memory finds it as it was, whatever happened since the last one."""
    student = Student()
    weights = multitask.GradNorm(TASKS, student.trunk.parameters(), lr=0.1)

    def steps() -> dict[str, float]:
        for number, batch in enumerate(batches(3, 4)):
            weights({name: loss for name, loss in student.losses(batch).items() if loss is not None or number})
        return weights.weights

    steps()
    saved, found = weights.state_dict(), []
    for _ in range(2):
        weights.load_state_dict(saved)
        found.append(steps())
    assert found[0] == found[1] != dict.fromkeys(TASKS, 1.0)


def test_wrong_use() -> None:
    student = Student()
    shared = list(student.trunk.parameters())
    for wrong in ({"alpha": -1}, {"alpha": math.nan}, {"lr": 0}, {"lr": math.inf}):
        with pytest.raises(TaskError, match=r"expected an? "):
            multitask.GradNorm(TASKS, shared, **wrong)
    frozen = [torch.nn.Parameter(torch.ones(2), requires_grad=False)]
    for wrong in ([], frozen, shared[0], ["trunk"], student.trunk):
        with pytest.raises(TaskError, match="shared has no parameters"):
            multitask.GradNorm(TASKS, wrong)
    weights = multitask.GradNorm(TASKS, [*shared, *frozen])
    own = torch.nn.Parameter(torch.tensor(2.0))
    for loss, match in (
        (torch.tensor(1.0), "has no gradient"),
        (own * 1, "does not depend on the shared"),
        (shared[0].sum() * 0, "the first above 0"),
        (-shared[0].square().sum(), "losses from 0"),
        ((shared[0] * 0).square().sum().sqrt() + 1, "has the norm nan"),
    ):
        before = repr(weights.state_dict())
        with pytest.raises(TaskError, match=match):
            weights({SECOND: loss})
        assert repr(weights.state_dict()) == before
