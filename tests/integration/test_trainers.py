"""Students in other people's trainers learn, step by step, what they would from the live teacher."""

import functools
import os
import warnings
from pathlib import Path
from typing import Any

import datasets
import lightning
import pytest
import torch
import transformers
from conftest import Workshop
from free_port import free_port
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler
from transformers import TrainingArguments

import softcache
from softcache.errors import TaskError

T, ALPHA, ROWS = 3.0, 0.7, 40


@pytest.fixture
def built(workshop: Workshop) -> Workshop:
    workshop.build()
    return workshop


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 5)


def live_loss(workshop: Workshop, logits: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss that a loop with the teacher in it would compute."""
    teacher = workshop.answers(inputs=x).float()
    p, log_q = (teacher / T).softmax(1), (logits / T).log_softmax(1)
    soft = T**2 * nn.functional.kl_div(log_q, p, reduction="batchmean")
    return ALPHA * soft + (1 - ALPHA) * nn.functional.cross_entropy(logits, labels)


def samples(workshop: Workshop) -> Any:
    return [{"id": i, "x": x, "labels": i % 5} for i, x in enumerate(workshop.inputs())]


class Net(nn.Module):
    """A student as transformers has them: it takes named inputs, and gives logits in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = student()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


class Losses(transformers.TrainerCallback):
    """Collects what the Trainer logs."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


class LiveTrainer(transformers.Trainer):
    workshop: Workshop

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(inputs["x"])
        loss = live_loss(self.workshop, outputs["logits"], inputs["x"], inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class DistillationTrainer(softcache.TrainerMixin, transformers.Trainer):
    pass


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "optim": "sgd",
        "learning_rate": 0.1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    return TrainingArguments(**(options | changes))


def distilled(workshop: Workshop, folder: Path, distillation: Any = None, data: Any = None, **changes: Any) -> Any:
    if data is None:
        data = softcache.attach(samples(workshop), workshop.open(), id="id", targets=["cls"])
    return DistillationTrainer(
        Net(),
        arguments(folder, **changes),
        train_dataset=data,
        callbacks=[Losses()],
        distillation=distillation or softcache.Distillation(temperature=T, alpha=ALPHA),
    )


def losses_of(trainer: Any) -> list[float]:
    trainer.train()
    return next(c.losses for c in trainer.callback_handler.callbacks if isinstance(c, Losses))


@pytest.mark.parametrize("remove", [True, False])
def test_trainer_equals_the_live_teacher(built: Workshop, tmp_path: Path, remove: bool) -> None:
    """Loss by loss, in every epoch, whether or not the Trainer removes columns that the model does not take."""
    live = LiveTrainer(
        Net(), arguments(tmp_path, remove_unused_columns=False), train_dataset=samples(built), callbacks=[Losses()]
    )
    live.workshop = built
    cached = distilled(built, tmp_path, remove_unused_columns=remove)
    expected, found = losses_of(live), losses_of(cached)
    assert len(expected) == 15
    assert found == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(cached.model.layer.weight, live.model.layer.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_trainer_accumulates_exactly(built: Workshop, tmp_path: Path, missing: bool) -> None:
    """Four batches of 2, and of what is left, are one of 8: also where labels are missing."""
    data = samples(built)[:37]
    for i, sample in enumerate(data):
        sample["labels"] = -100 if missing and i % 3 == 0 else sample["labels"]
    attached = softcache.attach(data, built.open(), id="id", targets=["cls"])
    small, large = (
        distilled(
            built, tmp_path, data=attached, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size
        )
        for size in (2, 8)
    )
    assert losses_of(small) == pytest.approx(losses_of(large), rel=1e-4)
    assert torch.allclose(small.model.layer.weight, large.model.layer.weight, rtol=1e-4, atol=1e-6)


def test_trainer_resumes_bit_for_bit(built: Workshop, tmp_path: Path) -> None:
    """With schedules, shuffling, and a checkpoint in the middle of an epoch."""
    distillation = softcache.Distillation(
        temperature=softcache.schedules.linear(20, 1, epochs=3), alpha=softcache.schedules.cosine(1, 0, steps=15)
    )
    make = functools.partial(distilled, built, distillation=distillation)
    whole = make(tmp_path / "whole")
    expected = losses_of(whole)
    first = make(tmp_path / "parts", save_strategy="steps", save_steps=7)
    first.add_callback(StopAfter(7))
    head = losses_of(first)
    resumed = make(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-7"))
    tail = next(c.losses for c in resumed.callback_handler.callbacks if isinstance(c, Losses))
    assert head + tail == expected
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)


class StopAfter(transformers.TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_joined_loader_in_a_trainer(built: Workshop, tmp_path: Path) -> None:
    """A Trainer's own loader, joined: every epoch has an order of its own, and resuming skips what was seen."""

    class Joined(DistillationTrainer):
        def get_train_dataloader(self) -> Any:
            return softcache.join(super().get_train_dataloader(), built.open(), id="id", targets=["cls"])

    def make(folder: str, **changes: Any) -> Any:
        return Joined(
            Net(),
            arguments(tmp_path / folder, remove_unused_columns=False, **changes),
            train_dataset=samples(built),
            callbacks=[Losses()],
            distillation=softcache.Distillation(temperature=T, alpha=ALPHA),
        )

    expected = losses_of(distilled(built, tmp_path))
    assert losses_of(make("whole")) == pytest.approx(expected, rel=1e-6)
    first = make("parts", save_strategy="steps", save_steps=7)
    first.add_callback(StopAfter(7))
    head = losses_of(first)
    resumed = make("parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-7"))
    tail = next(c.losses for c in resumed.callback_handler.callbacks if isinstance(c, Losses))
    assert head + tail == pytest.approx(expected, rel=1e-6)


def test_trainer_evaluates_plain_samples(built: Workshop, tmp_path: Path) -> None:
    """With the same collator; and samples with soft targets by the distillation loss."""
    trainer = distilled(built, tmp_path)
    plain = [{"x": s["x"], "labels": s["labels"]} for s in samples(built)]
    logits = trainer.model(built.inputs())["logits"].detach()
    labels = torch.tensor([s["labels"] for s in plain])
    found = trainer.evaluate(plain)["eval_loss"]
    assert found == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    soft = trainer.evaluate(softcache.attach(samples(built), built.open(), id="id", targets=["cls"]))["eval_loss"]
    assert soft == pytest.approx(float(live_loss(built, logits, built.inputs(), labels)), rel=1e-4)


def test_what_a_trainer_is_refused(built: Workshop, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Distillation\\(label_smoothing="):
        distilled(built, tmp_path, label_smoothing_factor=0.1)
    plain = datasets.Dataset.from_list([{"x": s["x"].tolist(), "labels": s["labels"]} for s in samples(built)])
    with pytest.raises(TaskError, match=r"no soft targets.*softcache\.attach"):
        distilled(built, tmp_path, data=plain).train()
    both = softcache.attach(samples(built), built.open(), id="id", targets=["cls", "feat"])
    with pytest.raises(TaskError, match=r"cls@t, feat@t; give Distillation\(target="):
        distilled(built, tmp_path, data=both).train()
    chosen = distilled(built, tmp_path, softcache.Distillation(temperature=T, alpha=ALPHA, target="cls"), both)
    assert losses_of(chosen) == pytest.approx(losses_of(distilled(built, tmp_path)))


def test_a_collator_of_the_users(built: Workshop, tmp_path: Path) -> None:
    """It gets the samples, and may be wrapped in softcache.collate already."""

    def scaled(samples: Any) -> Any:
        batch = torch.utils.data.default_collate(list(samples))
        return batch | {"x": 2 * batch["x"]}

    def losses(collator: Any) -> list[float]:
        trainer = DistillationTrainer(
            Net(),
            arguments(tmp_path),
            train_dataset=softcache.attach(samples(built), built.open(), id="id", targets=["cls"]),
            data_collator=collator,
            callbacks=[Losses()],
            distillation=softcache.Distillation(temperature=T, alpha=ALPHA),
        )
        return losses_of(trainer)

    plain = losses_of(distilled(built, tmp_path))
    assert losses(softcache.collate) == plain
    assert losses(scaled) == losses(functools.partial(softcache.collate, samples=scaled)) != plain


class LightningStudent(softcache.LightningMixin, lightning.LightningModule):
    """A student that keeps its losses; `workshop` has its teacher, `live` says that it is asked."""

    def __init__(self, workshop: Workshop, live: bool) -> None:
        super().__init__()
        self.layer, self.workshop, self.live = student(), workshop, live
        self.losses: list[float] = []
        self.look_up(workshop.open(), id="id", targets=["cls"])

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        logits = self.layer(batch["x"])
        if self.live:
            loss = live_loss(self.workshop, logits, batch["x"], batch["labels"])
        else:
            soft = batch["soft"]["cls"]
            loss = softcache.distillation_loss(logits, soft, temperature=T, labels=batch["labels"], alpha=ALPHA)
        self.log("loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        assert "soft" not in batch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: Any, loader: Any, **options: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    with warnings.catch_warnings():
        # Lightning recommends workers, and a shuffled loader's warnings are its own business.
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, DataLoader([{"x": torch.zeros(4)}]))
    return module


def shuffled(workshop: Workshop) -> Any:
    return DataLoader(samples(workshop), 8, shuffle=True, generator=torch.Generator().manual_seed(2))


def test_lightning_equals_the_live_teacher(built: Workshop) -> None:
    live, cached = (fit(LightningStudent(built, live), shuffled(built)) for live in (True, False))
    assert len(live.losses) == 15
    assert cached.losses == pytest.approx(live.losses, rel=1e-4)
    assert torch.allclose(cached.layer.weight, live.layer.weight, rtol=1e-4, atol=1e-6)


def test_lightning_with_a_joined_loader(built: Workshop) -> None:
    """Without the mixin; a DistributedSampler gets its epochs, as it does in the plain loader."""

    class Plain(LightningStudent):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    data = samples(built)
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    loader = DataLoader(data, 8, sampler=sampler)
    join = softcache.join(loader, built.open(), id="id", targets=["cls"])
    mixin = fit(LightningStudent(built, False), DataLoader(data, 8, sampler=sampler)).losses
    assert fit(Plain(built, False), join).losses == pytest.approx(mixin, rel=1e-6)
    order = functools.partial(list, sampler)
    assert sampler.epoch == 2
    last = order()
    sampler.set_epoch(0)
    assert order() != last


def test_lightning_is_refused_what_would_lose_the_join(built: Workshop) -> None:
    """Lightning builds a loader anew to number its batches, or to shard it."""
    module = LightningStudent(built, False)
    module.predict_step = lambda batch, index: batch  # type: ignore[method-assign]
    join = softcache.join(DataLoader(samples(built), 8), built.open(), id="id", targets=["cls"])
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TaskError, match=r"softcache\.LightningMixin"):
            trainer.predict(module, join)
    module = LightningStudent(built, False)
    module._lookup = None
    with pytest.raises(TaskError, match=r"call self\.look_up"):
        fit(module, shuffled(built))


def test_the_plain_loop_equals_the_live_teacher(built: Workshop) -> None:
    losses = []
    for live in (True, False):
        model, found = student(), []
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loader = shuffled(built)
        for _ in range(3):
            for batch in softcache.join(loader, built.open(), id="id", targets=["cls"]):
                logits, labels = model(batch["x"]), batch["labels"]
                if live:
                    loss = live_loss(built, logits, batch["x"], labels)
                else:
                    loss = softcache.distillation_loss(logits, batch["soft"]["cls"], T, labels, ALPHA)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        losses.append(found)
    assert len(losses[0]) == 15
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def one_rank(rank: int, world: int, port: int, folder: str) -> None:
    """Train in one of several processes; the first saves what it learned."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    workshop = object.__new__(Workshop)
    workshop.folder, workshop.cache = Path(folder) / "recipe", Path(folder) / "cache"
    trainer = distilled(
        workshop, Path(folder), data=some_labels(workshop), ddp_backend="gloo", per_device_train_batch_size=4
    )
    trainer.train()
    if rank == 0:
        torch.save(trainer.model.layer.weight.detach(), Path(folder) / "weight.pt")
    torch.distributed.barrier()
    os._exit(0)  # torch may abort or hang where it ends its threads


def some_labels(workshop: Workshop) -> Any:
    """Samples of which the first of each batch of 8 have no label: its halves count differently."""
    data = samples(workshop)
    for i, sample in enumerate(data):
        sample["labels"] = -100 if i % 3 == 0 else sample["labels"]
    return softcache.attach(data, workshop.open(), id="id", targets=["cls"])


def test_trainer_in_two_processes(built: Workshop, tmp_path: Path) -> None:
    """Two batches of 4, in two processes, are one of 8."""
    whole = distilled(built, tmp_path, data=some_labels(built))
    whole.train()
    torch.multiprocessing.spawn(one_rank, args=(2, free_port(), str(tmp_path)), nprocs=2)
    assert torch.allclose(torch.load(tmp_path / "weight.pt"), whole.model.layer.weight, rtol=1e-4, atol=1e-6)
