"""A student with two heads learns from two targets of the digits cache, one of which covers only some samples."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import softcache
from softcache import multitask

RECIPE = Path(__file__).parents[2] / "recipes/digits/recipe.yaml"
COVERED, BATCH = 300, 128
DIGIT, EMBEDDING = TASKS = ("digit@a", "embedding@a")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> softcache.Cache:
    """The digits of one teacher, whose embeddings cover the first samples alone."""
    output = tmp_path_factory.mktemp("runs") / "some"
    one = ["tasks.digit.teachers=[a]", "~teachers.b", "~teachers.c", "build.fragment_rows=100"]
    softcache.build(RECIPE, output, one, limit=COVERED)
    softcache.build(RECIPE, output, [*one, "~tasks.embedding"])
    return softcache.open(output)


class Student(nn.Module):
    """A shared trunk, a classifier, and a regressor to the teacher's features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 64)])

    def losses(self, images: torch.Tensor, soft: softcache.SoftBatch) -> dict[str, torch.Tensor | None]:
        hidden = self.trunk(images)
        digit, embedding = soft[DIGIT], soft[EMBEDDING]
        return {
            DIGIT: softcache.distillation_loss(self.heads[0](hidden), digit, temperature=4.0),
            EMBEDDING: softcache.regression_loss(self.heads[1](hidden), embedding) if embedding.mask.any() else None,
        }


def loader(cache: softcache.Cache, shuffle: bool = False) -> Iterator[tuple[torch.Tensor, softcache.SoftBatch]]:
    images = torch.from_numpy(load_digits().data.astype(np.float32) / 16)
    data = TensorDataset(torch.arange(len(images)), images)
    batches = DataLoader(data, batch_size=BATCH, shuffle=shuffle, generator=torch.Generator().manual_seed(1))
    for (_, x), soft in softcache.join(batches, cache, id=0, targets=TASKS):
        yield x, soft


RULES: Mapping[str, Callable[[Student], multitask.TaskWeights | multitask.GradientSurgery]] = {
    "Fixed": lambda student: multitask.Fixed({DIGIT: 1.0, EMBEDDING: 0.1}),
    "Uncertainty": lambda student: multitask.Uncertainty(TASKS, regression=[EMBEDDING]),
    "DWA": lambda student: multitask.DWA(TASKS),
    "GradNorm": lambda student: multitask.GradNorm(TASKS, student.trunk.parameters()),
    "FAMO": lambda student: multitask.FAMO(TASKS),
    "GradientSurgery": lambda student: multitask.GradientSurgery(TASKS, student.trunk.parameters()),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_both_tasks_are_learned(cache: softcache.Cache, rule: str, shuffle: bool) -> None:
    student = Student()
    weights = RULES[rule](student)
    own = weights.parameters() if isinstance(weights, nn.Module) else ()
    optimizer = torch.optim.Adam([*student.parameters(), *own], lr=0.01)
    seen: dict[str, list[float]] = {name: [] for name in TASKS}
    for _ in range(4):
        for images, soft in loader(cache, shuffle):
            losses = student.losses(images, soft)
            optimizer.zero_grad()
            weights.backward(losses)
            optimizer.step()
            if isinstance(weights, multitask.FAMO):
                with torch.no_grad():
                    weights.update(student.losses(images, soft))
            for name, loss in losses.items():
                seen[name] += [] if loss is None else [loss.item()]
        if isinstance(weights, multitask.TaskWeights):
            weights.end_epoch()
    steps = 4 * -(-1797 // BATCH)
    assert len(seen[DIGIT]) == steps
    # In order, the first batches alone have embeddings; shuffled, all have some.
    assert len(seen[EMBEDDING]) == (steps if shuffle else 4 * -(-COVERED // BATCH))
    for losses in seen.values():
        assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


@pytest.mark.parametrize("rule", RULES)
def test_batches_without_a_task_train_the_other_alone(cache: softcache.Cache, rule: str) -> None:
    """Their gradient has the direction of the only loss, and nothing moves in the other head or its weight."""
    student, alone = Student(), Student()
    weights = RULES[rule](student)
    images, soft = list(loader(cache))[5]
    assert not soft[EMBEDDING].mask.any()
    weights.backward(student.losses(images, soft))
    digit = alone.losses(images, soft)[DIGIT]
    digit.backward()
    assert all(p.grad is None for p in student.heads[1].parameters())
    scale = student.heads[0].bias.grad.norm() / alone.heads[0].bias.grad.norm()
    if rule == "FAMO":  # the gradient of log L
        assert scale.item() == pytest.approx(1.0, rel=1e-4)
    for p, own in zip(student.parameters(), alone.parameters(), strict=True):
        assert own.grad is None or torch.allclose(p.grad, scale * own.grad, rtol=1e-4, atol=1e-6)


def test_schedules_in_the_loop(cache: softcache.Cache) -> None:
    """One student is annealed by the schedule's own count, one by pure calls: their weights are the same."""

    def train(own_count: bool) -> list[torch.Tensor]:
        student = Student()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        temperature = softcache.schedules.cosine(20.0, 1.0, epochs=3)
        for epoch in range(4):
            for images, soft in list(loader(cache))[:4]:
                at = temperature.value if own_count else temperature(epoch)
                loss = softcache.distillation_loss(student.heads[0](student.trunk(images)), soft[DIGIT], at)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            temperature.step()
        assert temperature.value == 1.0
        return list(student.parameters())

    assert all(map(torch.equal, train(True), train(False)))
