"""What a Trainer gives its model, and what becomes of its datasets: any model, any set, any collator."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from conftest import Workshop
from language import TEXTS, Language
from test_trainers import ALPHA, DistillationTrainer, Losses, Net, T, arguments, live_loss, losses_of, samples
from torch import nn
from torch.utils.data import ConcatDataset
from trl import SFTConfig, SFTTrainer

import softcache
from softcache.errors import AlignmentError, TaskError

DISTILLATION = softcache.Distillation(temperature=T)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("workshop"))
    made.build()
    return made


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    made = Language(tmp_path_factory.mktemp("language"))
    made.build()
    return made


class Tuples(Net):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return super().forward(x)["logits"], x


class Tensors(Net):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x)["logits"]


class Anything(Net):
    def forward(self, **inputs: Any) -> Any:
        return super().forward(inputs["x"])


def trained(workshop: Workshop, folder: Path, model: Any, data: Any = None, **changes: Any) -> Any:
    return DistillationTrainer(
        model,
        arguments(folder, num_train_epochs=1, **changes),
        train_dataset=softcache.attach(data or samples(workshop), workshop.open(), id="id", targets=["cls"]),
        callbacks=[Losses()],
        distillation=softcache.Distillation(temperature=T, alpha=ALPHA),
    )


@pytest.mark.parametrize("model", [Tuples, Tensors, Anything])
def test_models_of_every_signature(workshop: Workshop, tmp_path: Path, model: Any) -> None:
    expected = losses_of(trained(workshop, tmp_path, Net()))
    assert losses_of(trained(workshop, tmp_path, model(), remove_unused_columns=False)) == expected


def test_a_compiled_model(workshop: Workshop, tmp_path: Path) -> None:
    expected = losses_of(trained(workshop, tmp_path, Net()))
    compiled = trained(workshop, tmp_path, Net(), torch_compile=True, torch_compile_backend="eager")
    assert losses_of(compiled) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", [Net, Tuples, Tensors])
def test_evaluation_has_the_distillation_loss(workshop: Workshop, tmp_path: Path, model: Any) -> None:
    """Its metrics get the logits, and so they do without labels, which the soft part does not need."""
    trainer, seen = trained(workshop, tmp_path, model()), []
    trainer.compute_metrics = lambda given: seen.append(given.predictions) or {}
    logits = Net()(workshop.inputs())["logits"].detach()
    labels = torch.tensor([s["labels"] for s in samples(workshop)])
    data = softcache.attach(samples(workshop), workshop.open(), id="id", targets=["cls"])
    found = trainer.evaluate(data)["eval_loss"]
    assert found == pytest.approx(float(live_loss(workshop, logits, workshop.inputs(), labels)), rel=1e-4)
    trainer.distillation = DISTILLATION
    plain = [{"id": s["id"], "x": s["x"]} for s in samples(workshop)]
    found = trainer.evaluate(softcache.attach(plain, workshop.open(), id="id", targets=["cls"]))["eval_loss"]
    p, log_q = (workshop.answers() / T).softmax(1), (logits.double() / T).log_softmax(1)
    assert found == pytest.approx(float(T**2 * nn.functional.kl_div(log_q, p, reduction="batchmean")), rel=1e-4)
    for predictions in seen:
        first = predictions[0] if isinstance(predictions, tuple) else predictions
        assert torch.allclose(torch.from_numpy(first), logits, atol=1e-6)


def test_unused_columns_are_removed(workshop: Workshop, tmp_path: Path) -> None:
    """Those that no collator can make a tensor of, as a Trainer removes them from any dataset."""
    named = [sample | {"name": f"sample {sample['id']}", "file": object()} for sample in samples(workshop)]
    expected = losses_of(trained(workshop, tmp_path, Net()))
    assert losses_of(trained(workshop, tmp_path, Net(), named)) == expected
    with pytest.raises(RuntimeError, match="dtype of object"):
        trained(workshop, tmp_path, Net(), named, remove_unused_columns=False).train()


def test_soft_targets_are_no_unused_column(workshop: Workshop, tmp_path: Path) -> None:
    """Nor where a dataset that is made of attached ones gives its samples one by one."""
    trainer = trained(workshop, tmp_path, Net())
    expected = losses_of(trained(workshop, tmp_path, Net()))
    trainer.train_dataset = ConcatDataset([trainer.train_dataset])
    assert losses_of(trainer) == expected


def tokenised(language: Language) -> Any:
    rows = [{"id": i, "text": text, **language.tokenizer(text)} for i, text in enumerate(TEXTS)]
    return datasets.Dataset.from_list(rows)


def padded(language: Language) -> Any:
    return softcache.attach(tokenised(language), softcache.open(language.cache), id="id", targets=["full"])


def packed(language: Language) -> Any:
    return softcache.pack(softcache.open(language.cache), 64, targets=["full"])


def padding(language: Language, side: str = "right") -> Any:
    language.tokenizer.padding_side = side
    return transformers.DataCollatorWithPadding(language.tokenizer)


def trainer_of(language: Language, folder: Path, data: Any, model: Any = None, side: str = "right", **more: Any) -> Any:
    return DistillationTrainer(
        language.model if model is None else model,
        arguments(folder, max_steps=1, learning_rate=0.0, lr_scheduler_type="constant"),
        train_dataset=data,
        data_collator=padding(language, side),
        callbacks=[Losses()],
        distillation=DISTILLATION,
        **more,
    )


def test_left_padding_is_refused(language: Language, tmp_path: Path) -> None:
    """Soft targets would lie beside the wrong tokens. The teacher is its own best student."""
    (loss,) = losses_of(trainer_of(language, tmp_path, padded(language)))
    assert abs(loss) < 1e-5
    with pytest.raises(AlignmentError, match="pad on the right"):
        trainer_of(language, tmp_path, padded(language), side="left").train()


class Wrapped(nn.Module):
    """As PEFT wraps a model: what it takes beyond the first goes on unnamed."""

    def __init__(self, model: Any, virtual: int = 0) -> None:
        super().__init__()
        self.model, self.virtual = model, virtual

    def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
        logits = self.model(input_ids, **more).logits
        return {"logits": nn.functional.pad(logits, (0, 0, self.virtual, 0))}


class Peft(Wrapped):
    def get_base_model(self) -> Any:
        return self.model


@pytest.mark.parametrize("wrapper", [Wrapped, Peft])
@pytest.mark.parametrize("data", [padded, packed])
def test_wrapped_models(language: Language, tmp_path: Path, wrapper: Any, data: Any) -> None:
    """Position ids reach the model: without them packed samples would see each other."""
    (loss,) = losses_of(trainer_of(language, tmp_path, data(language), wrapper(language.model)))
    assert abs(loss) < 1e-5


def test_packs_are_kept_apart_whatever_the_cache(language: Language, tmp_path: Path) -> None:
    """With a cache transformers would not look for packed samples."""
    for model in (language.model, Wrapped(language.model), Peft(language.model)):
        trainer = trainer_of(language, tmp_path, packed(language), model)
        language.model.config.use_cache = True
        (loss,) = losses_of(trainer)
        assert abs(loss) < 1e-5


def test_what_a_model_cannot_answer(language: Language, tmp_path: Path) -> None:
    class NoPositions(Wrapped):
        def forward(self, input_ids: torch.Tensor) -> Any:
            return super().forward(input_ids)

    with pytest.raises(TaskError, match=r"takes no position_ids.*softcache\.attach"):
        trainer_of(language, tmp_path, packed(language), NoPositions(language.model)).train()
    with pytest.raises(TaskError, match="virtual tokens"):
        trainer_of(language, tmp_path, padded(language), Wrapped(language.model, virtual=3)).train()


@pytest.mark.parametrize("train", [padded, packed])
@pytest.mark.parametrize("evaluated", [padded, packed])
def test_evaluation_sets_of_another_kind(language: Language, tmp_path: Path, train: Any, evaluated: Any) -> None:
    trainer = trainer_of(language, tmp_path, train(language), eval_dataset=evaluated(language))
    trainer.train()
    assert abs(trainer.evaluate()["eval_loss"]) < 1e-5
    labelled = [{"input_ids": ids, "labels": ids} for ids in language.ids[:1]]
    plain = trainer.evaluate(labelled)["eval_loss"]
    ids = torch.tensor(language.ids[:1])
    assert plain == pytest.approx(language.model(ids, labels=ids).loss.item(), rel=1e-5)


class DistillationSFTTrainer(softcache.TrainerMixin, SFTTrainer):
    pass


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # TRL's own default
@pytest.mark.parametrize("train", [padded, packed])
@pytest.mark.parametrize("evaluated", [padded, packed, lambda language: datasets.Dataset.from_dict({"text": TEXTS})])
def test_evaluation_sets_of_trl(
    language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Any, evaluated: Any
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    language.tokenizer.padding_side = "right"
    data = evaluated(language)
    trainer = DistillationSFTTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(language.folder / "model"),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            learning_rate=0.0,
            report_to=[],
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=train(language),
        eval_dataset=data,
        processing_class=language.tokenizer,
        distillation=DISTILLATION,
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    assert loss > 1 if isinstance(data, datasets.Dataset) else abs(loss) < 1e-5
