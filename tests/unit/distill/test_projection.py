"""Projection: linear for vectors, a convolution with kernel 1 for maps, trained with the student."""

import pytest
import torch
from feature_targets import features

import softcache
from softcache.errors import TaskError


@pytest.mark.parametrize(("ours", "theirs"), [((3,), (5,)), ((3, 4, 4), (5, 4, 4)), ((3, 8, 6), (5, 4, 3))])
def test_hint_loss(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    """FitNets, eq. 3, as the mean over the numbers: values, and the gradients of both the weights and the student."""
    torch.manual_seed(0)
    projection = softcache.Projection(ours, theirs).double()
    mask = torch.tensor([True, True, False, True])
    teacher = torch.randn(4, *theirs)
    student = torch.randn(4, *ours, dtype=torch.float64)
    student[2] = torch.nan
    student.requires_grad_()
    soft = features(teacher, mask)
    resize = "area" if ours[1:] != theirs[1:] else None
    loss = softcache.regression_loss(projection(student), soft, resize=resize)

    weight, bias = (p.detach().clone().requires_grad_() for p in projection.layer.parameters())
    guided = student.detach()[mask].requires_grad_()
    found = torch.einsum("oc,bcp->bop", weight.view(5, 3), guided.reshape(3, 3, -1)) + bias[:, None]
    if resize is not None:  # each place is the mean of 2 x 2
        found = found.view(3, 5, 4, 2, 3, 2).mean((3, 5))
    wanted = (found.reshape(3, *theirs) - teacher[mask]).square().mean()
    assert torch.allclose(loss, wanted)
    of_mask = torch.autograd.grad(loss, student, retain_graph=True)[0]
    assert torch.allclose(of_mask[mask], torch.autograd.grad(wanted, guided, retain_graph=True)[0])
    gradients = torch.autograd.grad(wanted, [weight, bias])
    safe = student.detach().nan_to_num(0.0)  # the weights of a layer see every row
    loss = softcache.regression_loss(projection(safe), soft, resize=resize)
    for own, other in zip(torch.autograd.grad(loss, list(projection.parameters())), gradients, strict=True):
        assert torch.allclose(own, other)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((3,), (5, 4, 4)), ((3, 4, 4), (5,)), ((3, 4), (5, 4)), ((), ()), ((0,), (5,)), ((3,), (0,))],
)
def test_wrong_shapes(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match=r"expected two vectors \[C\] or two maps \[C, H, W\]"):
        softcache.Projection(ours, theirs)


@pytest.mark.parametrize("ours", [64, None, (2.5,), "64"])
def test_shapes_are_tuples(ours: object) -> None:
    with pytest.raises(TaskError, match="expected tuples of integers"):
        softcache.Projection(ours, (64,))  # type: ignore[arg-type]


def test_wrong_features() -> None:
    """A linear layer takes any shape whose last size fits: here that would be a mistake."""
    with pytest.raises(TaskError, match=r"the features are \[2, 4, 3\]; expected \[B, 3\]"):
        softcache.Projection((3,), (5,))(torch.zeros(2, 4, 3))
    projection = softcache.Projection((3, 4, 4), (5, 4, 4))
    assert projection(torch.zeros(2, 3, 6, 5)).shape == (2, 5, 6, 5)
    for shape in ((3, 4, 4), (2, 5, 4, 4)):
        with pytest.raises(TaskError, match=r"expected \[B, 3, H, W\]"):
            projection(torch.zeros(shape))
