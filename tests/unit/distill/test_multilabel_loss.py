"""distillation_loss on labels that each have a probability of their own, against float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import softcache
from softcache.codecs import make_codec
from softcache.soft.keys import KnownKeys
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("logits", [[[17.0, -40.0, 3.0]], [[60.0, -60.0, 0.0]]])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_confident_teachers(divergence: str, logits: list[list[float]], temperature: float) -> None:
    """The distance of a sigmoid from 1 is kept: compared with float64."""
    task = TaskSpec("multilabel", (3,), "logits")
    codec = make_codec("dense", task, {"dtype": "float32"})
    teacher = torch.tensor(logits)
    soft = SoftTargets(
        codec.decoder, codec.encode(teacher), torch.ones(1, dtype=torch.bool), KnownKeys(np.zeros(1), np.zeros(1))
    )
    student = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    z, s = teacher.double() / temperature, student / temperature
    log_p, log_q = (torch.stack([F.logsigmoid(v), F.logsigmoid(-v)], -1) for v in (z, s))
    middle = torch.logaddexp(log_p, log_q) - np.log(2)

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.exp() * (a - b)).sum()

    wanted = {
        "forward_kl": kl(log_p, log_q),
        "reverse_kl": kl(log_q, log_p),
        "jensen_shannon": (kl(log_p, middle) + kl(log_q, middle)) / 2,
    }[divergence] * temperature**2
    loss = softcache.distillation_loss(student, soft, temperature, divergence=divergence)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6)
