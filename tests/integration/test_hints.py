"""Hints from a cache: a real teacher's maps in Zarr and vectors in Arrow, of which some samples have no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import close
from every_kind import ROWS, Kinds
from feature_targets import resize_by_hand

import softcache

COVERED = 9
IDS = np.random.default_rng(0).permutation(ROWS)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    """Features of the first samples, built before the cache knew of the others."""
    made = Kinds(tmp_path_factory.mktemp("hints"))
    made.recipe["tasks"] = {
        "layer": {"kind": "features", "shape": [5, 3, 4], "output": "maps", "store": {"format": "zarr"}},
        "vector": {"kind": "features", "shape": [7], "output": "tags"},
        "mean": {"kind": "regression", "shape": [3]},
    }
    for task in made.recipe["tasks"].values():
        task["teachers"] = ["t"]
    made.build(limit=COVERED)
    made.build("~tasks.layer", "~tasks.vector")
    return made


@pytest.fixture(scope="module")
def soft(kinds: Kinds) -> softcache.SoftBatch:
    (batch,) = softcache.join([{"id": IDS}], kinds.open(), id="id")
    return batch["soft"]  # type: ignore[no-any-return]


def test_what_is_stored(kinds: Kinds, soft: softcache.SoftBatch) -> None:
    answered, live = IDS < COVERED, kinds.outputs()
    for name, output in (("layer@t", "maps"), ("vector@t", "tags")):
        assert soft[name].mask.tolist() == answered.tolist()
        close(soft[name].values[answered], live[output][IDS[answered]].half())


def test_attention(kinds: Kinds, soft: softcache.SoftBatch) -> None:
    torch.manual_seed(0)
    student = torch.randn(ROWS, 2, 6, 8, dtype=torch.float64)
    answered = torch.from_numpy(IDS < COVERED)
    student[~answered] = torch.nan
    student.requires_grad_()
    loss = softcache.attention_loss(student, soft["layer@t"], resize="area")

    ours = student.detach()[answered].requires_grad_()
    teacher = kinds.outputs()["maps"][IDS[answered]].half().double()
    q_s, q_t = resize_by_hand(ours.square().sum(1), (3, 4), "area").flatten(1), teacher.square().sum(1).flatten(1)
    apart = q_s / q_s.square().sum(1, keepdim=True).sqrt() - q_t / q_t.square().sum(1, keepdim=True).sqrt()
    wanted = apart.square().mean()
    assert torch.allclose(loss, wanted, rtol=1e-4)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found[answered], gradient, atol=1e-5)
    assert (found[~answered] == 0).all()


@pytest.mark.parametrize(("name", "output"), [("layer@t", "maps"), ("vector@t", "tags")])
def test_similarities(kinds: Kinds, soft: softcache.SoftBatch, name: str, output: str) -> None:
    torch.manual_seed(0)
    student = torch.randn(ROWS, 6, dtype=torch.float64)
    answered = torch.from_numpy(IDS < COVERED)
    student[~answered] = torch.inf
    student.requires_grad_()
    loss = softcache.similarity_loss(student, soft[name])

    ours = student.detach()[answered].requires_grad_()
    teacher = kinds.outputs()[output][IDS[answered]].half().double().flatten(1)
    g_s, g_t = (g / g.square().sum(1, keepdim=True).sqrt() for g in (ours @ ours.T, teacher @ teacher.T))
    wanted = (g_t - g_s).square().sum() / COVERED**2
    assert torch.allclose(loss, wanted, rtol=1e-4)
    (found,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, ours)
    assert torch.allclose(found[answered], gradient, atol=1e-5)
    assert (found[~answered] == 0).all()


def test_a_projection_learns_the_teacher(kinds: Kinds, soft: softcache.SoftBatch) -> None:
    """Trained with the loss, it ends where the least-squares solution of the answered samples is."""
    torch.manual_seed(0)
    hidden, hint = torch.randn(ROWS, 2), soft["vector@t"]
    projection = softcache.Projection((2,), hint.task.shape)
    optimizer = torch.optim.LBFGS(projection.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = softcache.regression_loss(projection(hidden), hint)
        loss.backward()
        return loss

    optimizer.step(step)
    inputs = torch.cat([hidden, torch.ones(ROWS, 1)], 1).double()[IDS < COVERED]
    teacher = kinds.outputs()["tags"][IDS[IDS < COVERED]].half().double()
    best = inputs @ torch.linalg.lstsq(inputs, teacher).solution
    found = float(softcache.regression_loss(projection(hidden), hint).detach())
    assert found == pytest.approx(float((best - teacher).square().mean()), rel=1e-4)
