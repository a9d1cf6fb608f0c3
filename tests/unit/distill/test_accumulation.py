"""Gradients of parts of a batch: accumulated, or from several processes, they are those of the whole batch."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from free_port import free_port
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import targets

import softcache

B, C, WIDTH = 12, 6, 5


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, the teacher's logits, labels of which some are missing, and which rows have an answer."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, C, (B,), generator=g)
    return torch.randn(B, WIDTH, generator=g), torch.randn(B, C, generator=g), labels, torch.rand(B, generator=g) > 0.3


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, C)


def gradient(seed: int, rows: torch.Tensor, model: torch.nn.Module, items: object = None, scale: float = 1.0) -> None:
    inputs, teacher, labels, answered = batch(seed)
    loss = softcache.distillation_loss(
        model(inputs[rows]),
        targets(teacher[rows], answered[rows]),
        3.0,
        labels[rows],
        0.6,
        ignore_index=-1,
        num_items=items,  # type: ignore[arg-type]
    )
    (scale * loss).backward()


def counted(seed: int, rows: torch.Tensor) -> torch.Tensor:
    _, teacher, labels, answered = batch(seed)
    soft = targets(teacher[rows], answered[rows])
    return softcache.count_items(soft, labels[rows], ignore_index=-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.lists(st.integers(0, B), max_size=4))
def test_accumulated(seed: int, cuts: list[int]) -> None:
    """Batches of any sizes, empty ones too, whose rows have labels and answers in any proportion."""
    whole, parts = student(), student()
    gradient(seed, torch.arange(B), whole)
    pieces = [torch.arange(a, b) for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), B], strict=True)]
    items = sum(counted(seed, rows) for rows in pieces)
    assert isinstance(items, torch.Tensor)
    for rows in pieces:
        gradient(seed, rows, parts, items)
    assert torch.allclose(parts.weight.grad, whole.weight.grad, rtol=1e-5, atol=1e-7)


def one_rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    # Parts of unequal sizes, which a mean of means would get wrong.
    ends = [B * (r + 1) ** 2 // world**2 for r in range(-1, world)]
    rows = torch.arange(ends[rank] if rank else 0, ends[rank + 1])
    items = counted(7, rows)
    dist.all_reduce(items)
    model = torch.nn.parallel.DistributedDataParallel(student())
    # DDP averages the gradients of its processes; the sums are already divided by all items.
    gradient(7, rows, model, items, scale=world)
    if rank == 0:
        torch.save(model.module.weight.grad, Path(folder) / "gradient.pt")
    dist.barrier()
    os._exit(0)  # torch may abort or hang where it ends its threads


def test_several_processes(tmp_path: Path, many: Any) -> None:
    whole = student()
    gradient(7, torch.arange(B), whole)
    for world in many((2,), (1, 2, 4)):
        mp.spawn(one_rank, args=(world, free_port(), str(tmp_path)), nprocs=world)
        assert torch.allclose(torch.load(tmp_path / "gradient.pt"), whole.weight.grad, rtol=1e-5, atol=1e-7)


def test_counts_of_maps() -> None:
    """Positions and places are counted, and only those that count."""
    from softcache.tasks import TaskSpec

    maps = targets(
        torch.randn(2, C, 2, 3),
        torch.tensor([True, False]),
        TaskSpec("segmentation", (C, 2, 3), "logits", activation="softmax"),
    )
    labels = torch.zeros(2, 2, 3, dtype=torch.int64)
    labels[0, 0] = -100
    assert softcache.count_items(maps, labels).tolist() == [6, 3]
    assert softcache.count_items(maps).tolist() == [6, 0]
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[:, :, 0] = True
    assert softcache.count_items(maps, labels, mask=mask).tolist() == [2, 1]
    assert softcache.count_items(maps, labels, mask=mask, label_mask=~mask).tolist() == [2, 6]
    weights = torch.tensor([0.5, 1, 1, 1, 1, 1])
    assert softcache.count_items(maps, labels, class_weights=weights).tolist() == [6, 1.5]
    assert softcache.count_items(maps, labels, sample_weights=torch.tensor([2.0, 1.0])).tolist() == [12, 6]


@given(st.integers(0, 99))
def test_counts_of_a_divergence_that_needs_labels(seed: int) -> None:
    """Rows without a label do not count in its soft part: nor in the number that divides it."""
    inputs, teacher, labels, answered = batch(seed)
    logits, soft, decoupled = student()(inputs), targets(teacher, answered), softcache.DecoupledKL()
    items = softcache.count_items(soft, labels, ignore_index=-1, divergence=decoupled)
    assert items.tolist() == [int((answered & (labels >= 0)).sum())] * 2
    counted, whole = (
        softcache.distillation_loss(
            logits, soft, 3.0, labels, 0.6, ignore_index=-1, divergence=decoupled, num_items=number
        )
        for number in (items, None)
    )
    torch.testing.assert_close(counted, whole, rtol=1e-6, atol=0)
