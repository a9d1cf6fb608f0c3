"""Students of augmented views learn from a cache what they would from the live teacher that sees the same views."""

from types import ModuleType
from typing import Any

import pytest
import torch
from augmented import Augmented
from conftest import Workshop
from torch import nn
from torch.utils.data import DataLoader

import softcache

T, ALPHA = 3.0, 0.7


def train(workshop: Workshop, data: Any, live: bool) -> list[float]:
    torch.manual_seed(0)
    model, losses = nn.Linear(4, 5), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(2), collate_fn=softcache.collate)
    for epoch in range(4):
        data.set_epoch(epoch)
        for batch in loader:
            x, labels = torch.as_tensor(batch["x"]), batch["label"]
            logits = model(x)
            if live:
                p = (workshop.answers(inputs=x).float() / T).softmax(1)
                soft = T**2 * nn.functional.kl_div((logits / T).log_softmax(1), p, reduction="batchmean")
                loss = ALPHA * soft + (1 - ALPHA) * nn.functional.cross_entropy(logits, labels)
            else:
                loss = softcache.distillation_loss(logits, batch["soft"]["cls"], T, labels, ALPHA)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_the_same_views_the_same_losses(augmented: Augmented, augment: ModuleType) -> None:
    workshop = augmented("noisy", views=3)
    workshop.build()
    samples = [{"id": i, "x": x.numpy(), "label": i % 5} for i, x in enumerate(workshop.inputs())]
    data = softcache.views(samples, workshop.open(), augment.noisy, id="id", targets=["cls"], check="always")
    expected = train(workshop, data, live=True)
    assert len(set(expected)) == 20
    assert train(workshop, data, live=False) == pytest.approx(expected, rel=1e-4)
