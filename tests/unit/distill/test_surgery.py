"""Gradient surgery against torchjd's own backward pass, and by hand."""

import sys

import pytest
import torch
import torchjd.aggregation
from torchjd.autojac import jac_to_grad, mtl_backward
from two_tasks import TASKS, Student, batches

from softcache import multitask
from softcache.errors import MissingExtra, TaskError

FIRST, SECOND = TASKS
AGGREGATORS = ["UPGrad", "PCGrad", "MGDA", "IMTLG", "AlignedMTL", "ConFIG", "DualProj", "GradDrop", "Mean", "Sum"]


def batch(there: tuple[bool, bool] = (True, True)) -> tuple[torch.Tensor, dict[str, bool]]:
    x, _ = next(batches(7, 1, torch.float64))
    return x, dict(zip(TASKS, there, strict=True))


def gradients(student: Student) -> list[torch.Tensor | None]:
    return [p.grad for p in student.parameters()]


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("there", [(True, True), (False, True), (True, False)])
def test_it_is_torchjds(name: str, there: tuple[bool, bool]) -> None:
    """The gradients are those of torchjd's backward pass over the tasks that are present."""
    ours, theirs = Student(0, torch.float64), Student(0, torch.float64)
    surgery = multitask.GradientSurgery(TASKS, ours.trunk.parameters(), name)
    torch.manual_seed(0)
    losses = ours.losses(batch(there))
    loss = surgery.backward(losses)
    assert loss.item() == pytest.approx(sum(x.item() for x in losses.values() if x is not None))
    torch.manual_seed(0)
    hidden = theirs.trunk(batch()[0]).tanh()
    theirs_losses = [
        theirs.heads[0](hidden).logsumexp(1).exp().mean(),
        30 * (theirs.heads[1](hidden) - 1).square().mean(),
    ]
    mtl_backward([x for x, present in zip(theirs_losses, there, strict=True) if present], features=hidden)
    jac_to_grad(theirs.trunk.parameters(), getattr(torchjd.aggregation, name)())
    for found, expected in zip(gradients(ours), gradients(theirs), strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_pcgrad_by_hand() -> None:
    """Of two gradients in conflict, each loses its part along the other; then they are added (Yu et al. 2020)."""
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    g, h = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    multitask.GradientSurgery(TASKS, [p], "PCGrad").backward({SECOND: h @ p, FIRST: g @ p})
    assert torch.allclose(p.grad, g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g)


def test_upgrad_raises_no_loss() -> None:
    """Its step lowers both losses, or keeps them, where that of the mean of the gradients raises one."""
    g, h = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-3.0, 1.0], dtype=torch.float64)
    steps = {}
    for name in ("UPGrad", "Mean"):
        p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        multitask.GradientSurgery(TASKS, [p], name).backward({FIRST: g @ p, SECOND: h @ p})
        steps[name] = p.grad
    assert g @ steps["Mean"] < -0.9
    assert min(g @ steps["UPGrad"], h @ steps["UPGrad"]) > -1e-3


def test_gradients_accumulate() -> None:
    student = Student(0, torch.float64)
    surgery = multitask.GradientSurgery(TASKS, student.trunk.parameters(), "PCGrad")
    surgery.backward(student.losses(batch()))
    once = [p.grad.clone() for p in student.parameters()]
    surgery.backward(student.losses(batch()))
    for p, gradient in zip(student.parameters(), once, strict=True):
        assert torch.allclose(p.grad, 2 * gradient)
        assert not hasattr(p, "jac")


def test_what_no_loss_depends_on_has_no_gradient() -> None:
    student = Student()
    unused, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    trunk = list(student.double().trunk.parameters())
    surgery = multitask.GradientSurgery(TASKS, [*trunk, unused, frozen, *trunk], "Mean")
    surgery.backward(student.losses(batch()))
    assert unused.grad is None
    assert frozen.grad is None
    with pytest.raises(TaskError, match="no loss of 'digit@a', 'value@b"):
        multitask.GradientSurgery(TASKS, [unused], "Mean").backward(student.losses(batch()))


def test_a_batch_without_any_task() -> None:
    student = Student()
    surgery = multitask.GradientSurgery(TASKS, student.trunk.parameters())
    for losses in ({}, dict.fromkeys(TASKS)):
        assert surgery.backward(losses).item() == 0
    assert gradients(student) == [None] * 6


def test_an_instance_with_settings() -> None:
    student = Student(0, torch.float64)
    constant = torchjd.aggregation.Constant(torch.tensor([2.0, 3.0], dtype=torch.float64))
    surgery = multitask.GradientSurgery(TASKS, student.trunk.parameters(), constant)
    losses = student.losses(batch())
    shared = list(student.trunk.parameters())
    expected = torch.autograd.grad(2 * losses[FIRST] + 3 * losses[SECOND], shared, retain_graph=True)
    surgery.backward({SECOND: losses[SECOND], FIRST: losses[FIRST]})
    assert all(map(torch.allclose, [p.grad for p in shared], expected))
    before = [p.grad.clone() for p in shared]
    with pytest.raises(TaskError, match=r"Constant.* cannot combine the gradients of 'digit@a'"):
        surgery.backward(student.losses(batch((True, False))))
    assert all(map(torch.equal, [p.grad for p in shared], before))
    assert not any(hasattr(p, "jac") for p in shared)


@pytest.mark.parametrize(
    ("aggregator", "match"),
    [
        ("upgrad", "no aggregator 'upgrad'; it has .*UPGrad"),
        ("Constant", "cannot be made without settings"),
        ("WeightedAggregator", "cannot be made without settings"),
        ("GradVac", "keeps a state"),
        ("ExcessMTL", "keeps a state"),
        (torch.nn.Linear(2, 2), "expected a torchjd aggregator"),
        (None, "expected a torchjd aggregator"),
    ],
)
def test_wrong_aggregators(aggregator, match: str) -> None:
    with pytest.raises(TaskError, match=match):
        multitask.GradientSurgery(TASKS, Student().trunk.parameters(), aggregator)


def test_wrong_losses() -> None:
    student = Student()
    surgery = multitask.GradientSurgery(TASKS, student.trunk.parameters())
    student.double()
    losses = student.losses(batch())
    for wrong, match in (
        ({"x": losses[FIRST]}, "unknown tasks 'x'"),
        ({**losses, FIRST: losses[FIRST] * torch.nan}, "'digit@a' is nan"),
        ({**losses, SECOND: losses[SECOND].detach()}, r"'value@b\.2' has no gradient"),
        ({**losses, SECOND: losses[SECOND][None]}, r"'value@b\.2' is torch.float64 \[1\]"),
    ):
        with pytest.raises(TaskError, match=match):
            surgery.backward(wrong)
    assert gradients(student) == [None] * 6


@pytest.mark.parametrize("missing", ["torchjd", "quadprog"])
def test_missing_libraries(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "torchjd":
        monkeypatch.setitem(sys.modules, "torchjd", None)
    else:
        monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"softcache\[multitask\]|UPGrad: .*{missing}"):
        multitask.GradientSurgery(TASKS, Student().trunk.parameters())
