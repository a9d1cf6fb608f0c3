"""Packing: several samples in one row, each seeing only itself, in a plain loop and in TRL's trainer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from language import Language, make_model
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

import softcache
from softcache.errors import AlignmentError, TaskError
from softcache.loaders.packing import PackedDataset, best_fit

T, SIZE = 2.0, 48


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(30, 60))
def test_best_fit(lengths: list[int], size: int) -> None:
    """Every item is in one row, no row is too long, and no two rows would fit into one."""
    rows = best_fit(np.array(lengths, np.int64), size)
    assert sorted(i for row in rows for i in row.tolist()) == list(range(len(lengths)))
    totals = sorted(sum(lengths[i] for i in row) for row in rows)
    assert all(total <= size for total in totals)
    assert len(totals) < 2 or totals[0] + totals[1] > size


def test_lengths_need_no_values(language: Language) -> None:
    cache = language.build()
    assert cache["full"].lengths([2, 0, 2]).tolist() == [len(language.ids[i]) for i in (2, 0, 2)]
    with pytest.raises(AlignmentError, match="lacks 1 of 1 key: 99"):
        cache["full"].lengths([99])


def test_packs_are_what_the_teacher_saw(language: Language) -> None:
    """Each span's tokens, positions and labels, and its soft targets in the places of its logits."""
    cache = language.build()
    data = softcache.pack(cache, SIZE, targets="full")
    assert sum(len(p.lengths) for p in data.packs) == len(language.ids)
    assert all(p.lengths.sum() <= SIZE for p in data.packs)
    together = next(iter(DataLoader(data, len(data), collate_fn=softcache.collate_packs)))
    for batch, packs in [(data[i], [pack]) for i, pack in enumerate(data.packs)] + [(together, data.packs)]:
        ids = [i for p in packs for i in p.ids.tolist()]
        tokens = [language.ids[i] for i in ids]
        assert batch["input_ids"].tolist() == [[t for row in tokens for t in row]]
        assert batch["position_ids"].tolist() == [[n for row in tokens for n in range(len(row))]]
        assert batch["labels"].tolist() == [[t for row in tokens for t in [-100, *row[1:]]]]
        assert batch["shift_labels"].tolist() == [[t for row in tokens for t in [*row[1:], -100]]]
        soft = batch["soft"]["full"]
        student = torch.randn(1, len(batch["input_ids"][0]), len(language.tokenizer), dtype=torch.float64)
        loss = softcache.distillation_loss(student[0], soft, T, reduction="sum")
        expected, begin = 0.0, 0
        for i, row in zip(ids, tokens, strict=True):
            p = (language.logits(i).double() / T).softmax(-1)
            q = (student[0, begin : begin + len(row) - 1] / T).softmax(-1)
            expected += float(T**2 * (p * (p / q).log()).sum())
            begin += len(row)
        assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_long_samples_are_cut_or_refused(language: Language) -> None:
    cache = language.build()
    with pytest.raises(TaskError, match="have more than 10 tokens, the longest"):
        softcache.pack(cache, 10, split_long=False)
    data = softcache.pack(cache, 10, targets=["lm", "full"], ids=[0, 1])
    batch = next(iter(DataLoader(data, len(data), collate_fn=softcache.collate_packs)))
    seen = sorted((int(i), int(s), int(n)) for p in data.packs for i, s, n in zip(*p, strict=True))
    for i in (0, 1):
        length = len(language.ids[i])
        starts = range(0, length - length % 10 + (length % 10 > 1) * 10, 10)
        assert [(s, n) for j, s, n in seen if j == i] == [(s, min(10, length - s)) for s in starts]
    labels = batch["shift_labels"][0][batch["soft"]["full"].mask[:, :10].flatten()[: batch["shift_labels"].shape[1]]]
    assert labels is not None
    # The answer at the end of a cut span is for the first token of the next.
    first = next(k for k, p in enumerate(data.packs) for s in p.starts[p.ids == 0] if s == 0)
    item = data[first]
    place = int(np.flatnonzero((data.packs[first].ids == 0) & (data.packs[first].starts == 0))[0])
    end = int(data.packs[first].lengths[: place + 1].sum()) - 1
    assert item["shift_labels"][0, end] == language.ids[0][10]


@pytest.mark.parametrize("change", [{"size": 1}, {"size": 4.0}, {"targets": "none"}])
def test_wrong_use(language: Language, change: dict[str, Any]) -> None:
    with pytest.raises((TaskError, softcache.UnknownTarget)):
        softcache.pack(**({"cache": language.build(), "size": 8} | change))


def test_other_kinds_have_no_tokens(digits: Path) -> None:
    with pytest.raises(TaskError, match="the cache has no tokens"):
        softcache.pack(softcache.open(digits), 8)
    with pytest.raises(TaskError, match="digit@a has no tokens"):
        softcache.pack(softcache.open(digits), 8, targets="digit@a")


def test_other_tokens(language: Language, tmp_path: Path) -> None:
    """Targets that share a row must have seen the same tokens."""
    cache = language.build()
    language.rows([{"id": i, "tokens": [(t + 1) % 200 for t in row]} for i, row in enumerate(language.ids)])
    teacher = language.recipe["teachers"]["t"]
    del teacher["text"]
    teacher["input_ids"] = "tokens"
    language.cache = tmp_path / "other"
    other = language.build()
    packs = softcache.pack(cache, SIZE, targets="full").packs
    with pytest.raises(AlignmentError, match="not the token ids"):
        _ = PackedDataset(packs, [cache["full"], other["lm"]])[0]


def test_workers(language: Language) -> None:
    data = softcache.pack(language.build(), SIZE, targets="lm")
    alone = list(DataLoader(data, 2, collate_fn=softcache.collate_packs))
    shared = list(DataLoader(data, 2, collate_fn=softcache.collate_packs, num_workers=2))
    assert [b["input_ids"].tolist() for b in shared] == [b["input_ids"].tolist() for b in alone]


class DistillationSFTTrainer(softcache.TrainerMixin, SFTTrainer):
    pass


def sft(language: Language, data: Any, folder: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "num_train_epochs": 2,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "optim": "sgd",
        "learning_rate": 0.05,
        "disable_tqdm": True,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "activation_checkpointing": False,
        "bf16": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_grad_norm": 0,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
    }
    student = make_model(len(language.tokenizer), padded=12, seed=7)
    return DistillationSFTTrainer(
        student,
        args=SFTConfig(**(options | changes)),
        train_dataset=data,
        processing_class=language.tokenizer,
        distillation=softcache.Distillation(temperature=T, alpha=0.6, target="full"),
    )


def by_hand(language: Language, batches: list[list[int]]) -> Any:
    """Train on whole samples one by one, each batch of samples one step: the sum of all tokens, divided by them."""
    student = make_model(len(language.tokenizer), padded=12, seed=7)
    optimizer = torch.optim.SGD(student.parameters(), 0.05)
    for _ in range(2):
        for batch in batches:
            tokens = sum(len(language.ids[i]) - 1 for i in batch)
            for i in batch:
                ids = torch.tensor([language.ids[i]])
                logits = student(ids).logits[0, :-1, : len(language.tokenizer)]
                p = (language.logits(i) / T).softmax(-1)
                soft = T**2 * torch.nn.functional.kl_div((logits / T).log_softmax(-1), p, reduction="sum")
                hard = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
                ((0.6 * soft + 0.4 * hard) / tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
    return student


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (2, 1), (1, 2)])
def test_trl(language: Language, tmp_path: Path, size: int, accumulate: int) -> None:
    """Packed samples in TRL's trainer, also accumulated, are trained on as if each were alone."""
    data = softcache.pack(language.build(), SIZE, targets="full")
    trainer = sft(language, data, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulate)
    trainer.train()
    packs = [p.ids.tolist() for p in data.packs]
    step = size * accumulate
    steps = [[i for p in packs[k : k + step] for i in p] for k in range(0, len(packs), step)]
    expected = by_hand(language, steps)
    start = weights(make_model(len(language.tokenizer), padded=12, seed=7))
    assert (weights(expected) - start).abs().max() > 1e-3
    assert torch.allclose(weights(trainer.model), weights(expected), rtol=1e-3, atol=1e-5)


def test_attached_samples_in_trl(language: Language, tmp_path: Path) -> None:
    """Padded batches of whole samples, with labels as TRL's collator makes them: the same training."""
    cache = language.build()
    samples = [{"id": i, "input_ids": ids} for i, ids in enumerate(language.ids)]
    data = softcache.attach(samples, cache, id="id", targets=["full"])
    trainer = sft(language, data, tmp_path, per_device_train_batch_size=3)
    trainer.train()
    expected = by_hand(language, [[0, 1, 2], [3, 4, 5]])
    assert torch.allclose(weights(trainer.model), weights(expected), rtol=1e-3, atol=1e-5)
