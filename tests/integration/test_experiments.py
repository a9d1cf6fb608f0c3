"""recipes/experiments.py: models that are trained once, by processes that may be killed at any instant."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from paper_recipes import RECIPES, modules_of

import softcache

recipe_modules = modules_of("hinton")


def test_epochs_resume_bit_for_bit(tmp_path: Path) -> None:
    from experiments import epochs

    def trained(checkpoint: Path, stops: int) -> torch.Tensor:
        torch.manual_seed(0)
        model, generator = torch.nn.Linear(4, 2), torch.Generator().manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters())
        for epoch in epochs(checkpoint, 5, model=model, optimizer=optimizer, generator=generator):
            noise = torch.nn.functional.dropout(torch.ones(4))
            loss = model(torch.randn(8, 4, generator=generator) * noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch == stops:
                return trained(checkpoint, 9)  # as if killed here: this epoch is lost
        return model.weight.detach()

    whole = trained(tmp_path / "whole.pt", 9)
    for stops in range(5):
        assert torch.equal(trained(tmp_path / f"{stops}.pt", stops), whole)
    assert torch.equal(trained(tmp_path / "whole.pt", 9), whole), "no epoch was left"


@pytest.mark.parametrize("count", [1, 2, 3, 10, 40])
def test_learning_resumes_with_all_epochs_done(tmp_path: Path, count: int) -> None:
    """The curve and the model, ready to answer, are what they were; a few steps are enough for a schedule."""
    from experiments import learn

    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def learned() -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        curve = learn(
            {"epochs": 1, "batch": 2, "rate": 0.1},
            tmp_path / "checkpoint.pt",
            model,
            torch.Generator().manual_seed(0),
            2 * count,
            loss=lambda rows: model(inputs[rows]).square().mean(),
            score=lambda: float(model(inputs).sum()),
            rows=lambda _: torch.arange(2 * count) % 8,
        )
        assert not any(module.training for module in model)
        return curve, model(inputs).detach()

    first, second = learned(), learned()
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_the_soft_loss_is_that_of_soft_targets() -> None:
    """At one temperature, with probabilities that were computed once."""
    from experiments import soft_loss, softened

    from softcache.codecs import DenseCodec
    from softcache.soft.keys import KnownKeys
    from softcache.tasks import TaskSpec

    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(50, 7, generator=generator) for _ in range(2))
    codec = DenseCodec(TaskSpec("classification", (7,), "logits"), "float32")
    keys = KnownKeys(torch.arange(50).numpy(), torch.zeros(50, dtype=torch.int32).numpy())
    soft = softcache.SoftTargets(codec.decoder, codec.encode(teacher), torch.ones(50, dtype=torch.bool), keys)
    student.requires_grad_()
    for temperature in (1.0, 4.0, 20.0):
        losses = (
            soft_loss(student, softened(soft, temperature), temperature),
            softcache.distillation_loss(student, soft, temperature),
        )
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=5e-3), "stored as float16"
        gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
        assert torch.allclose(*gradients, atol=2e-3 * gradients[1].abs().max().item())


SLOW = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {recipes!r})
from experiments import trained

def train(job, checkpoint):
    Path({folder!r}, f"pid{{os.getpid()}}").touch()
    time.sleep(60)

if __name__ == "__main__":
    trained([{{"seed": seed}} for seed in range(4)], train, Path({folder!r}))
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    """All of them, at once."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(recipes=str(RECIPES), folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, script]) as parent:
        wanted = min(os.cpu_count() or 1, 4)
        while len(pids := [int(path.name[3:]) for path in tmp_path.glob("pid*")]) < wanted:
            assert parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.05)


def test_one_run_in_a_folder(tmp_path: Path) -> None:
    from experiments import trained

    with FileLock(tmp_path / "lock"), pytest.raises(RuntimeError, match="another process trains there"):
        trained([{"seed": 0}], print, tmp_path)  # type: ignore[arg-type]
