"""Defects that a hunt found in kinds and adapters, each as it was found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from conftest import Workshop
from language import Language

import softcache
from softcache.codecs import make_codec
from softcache.errors import CodecError, RecipeError, SoftcacheError, TaskError, TeacherError
from softcache.soft.keys import KnownKeys
from softcache.soft.targets import SoftTargets
from softcache.tasks import TaskSpec
from softcache.teachers.hooks import Hook, _pooled
from softcache.teachers.onnx_model import _files
from softcache.teachers.pretrained import ModelSource, model_files

MODEL = """
import os, pathlib
import torch
from torch import nn
from softcache.teachers import Sequences

HERE = pathlib.Path(__file__).parent


class Answers(nn.Module):
    def __init__(self, answers="{}"):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.text = nn.Linear(4, 6), answers

    def forward(self, x):
        shift = float((HERE / "shift").read_text()) if (HERE / "shift").exists() else 0.0
        names = {"h": self.inner(x) * 3 + shift, "x": x, "torch": torch, "Sequences": Sequences, "self": self}
        return eval(self.text, names)

    def later(self, x):
        for i in range(len(x)):
            yield [i], self.inner(x[i:i + 1]) @ torch.eye(6)


def preprocess(sample):
    return torch.tensor(sample["x"])
"""
BOXES = "Sequences.from_lists([h[i:i+{n}] for i in range(len(h))], boxes=[torch.ones({n}, 4) * {size} for _ in h])"
DETECTION = {"kind": "detection", "classes": 6, "value_kind": "logits", "activation": "softmax", "boxes": "xyxy"}
CLASSES = {"kind": "classification", "classes": 6, "value_kind": "logits"}


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    workshop.write("model.py", MODEL)
    workshop.recipe["teachers"]["t"] = {"model": "model:Answers", "preprocess": "model:preprocess", "reads": ["x"]}
    return workshop


def one(shop: Workshop, answers: str, task: dict[str, Any], **teacher: Any) -> Workshop:
    """The workshop with one task `a`, answered by an expression."""
    shop.recipe["teachers"]["t"] |= {"arguments": {"answers": answers}} | teacher
    shop.recipe["tasks"] = {"a": {"store": {"dtype": "float32"}} | task | {"teachers": ["t"]}}
    return shop


def test_no_box_anywhere(shop: Workshop) -> None:
    """A batch, a fragment, a cache without any box is built, read and verified."""
    one(shop, f"{{'a': {BOXES.format(n=0, size=1)}}}", DETECTION).build()
    soft = shop.open()["a"].lookup([3, 1])
    assert isinstance(soft, softcache.SoftSequences)
    assert soft.lengths.tolist() == [0, 0]
    assert float(softcache.detection_loss(torch.randn(2, 3, 6), torch.rand(2, 3, 4), soft)) == 0
    assert softcache.verify(shop.cache).ok


STORES = [{"dtype": "bfloat16"}, {"codec": "topk", "k": 2}, {"codec": "sampled"}, {"codec": "quantized"}]


@pytest.mark.parametrize("store", STORES)
def test_uncovered_rows_of_every_codec(shop: Workshop, store: dict[str, Any]) -> None:
    one(shop, "{'a': h, 'b': h}", CLASSES | {"store": store})
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"]}
    shop.build(limit=9)
    shop.build("~tasks.a")
    cache = shop.open()
    (batch,) = softcache.join([{"id": np.array([2, 30])}], cache, id="id")
    soft = batch["soft"]["a"]
    assert soft.mask.tolist() == [True, False]
    assert soft.log_probs(2.0)[1].isnan().all()
    assert torch.equal(soft[:1].log_probs(2.0), cache["a"].lookup([2]).log_probs(2.0))


@pytest.mark.parametrize("size", [1, 2000])
def test_canaries_see_values_beside_large_parts(shop: Workshop, size: int) -> None:
    one(shop, f"{{'a': {BOXES.format(n=1, size=size)}}}", DETECTION).build(limit=20)
    (shop.folder / "shift").write_text("0.5")
    shop.recipe["transfer_set"]["source"]["callable"] = "data:samples"
    with pytest.raises(TeacherError, match=r"a@t: the answer of sample .* is answered otherwise"):
        shop.build()


def test_external_weights_of_onnx(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("m.data", "deep/weights.bin", "other.bin"):
        (tmp_path / name).write_bytes(b"w")
    named = b"".join(b"\x0a\x08location\x12" + bytes([len(n)]) + n.encode() for n in ("m.data", "deep/weights.bin"))
    (tmp_path / "m[1].onnx").write_bytes(b"a graph that says other.bin" + named + b"and so on")
    found = [path.relative_to(tmp_path).as_posix() for path in _files(tmp_path / "m[1].onnx")]
    assert found == ["m[1].onnx", "deep/weights.bin", "m.data"]
    with pytest.raises(TeacherError, match=r"none\.onnx: No such file"):
        _files(tmp_path / "none.onnx")


def test_files_of_a_model_in_folders(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "pooling/config.json", "training_args.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    source = ModelSource(str(tmp_path))
    assert len(model_files(source)[0]) == 1
    assert set(model_files(source)[1]) == {"config.json"}
    before = model_files(source, nested=True)
    (tmp_path / "pooling/config.json").write_text("{1}")
    assert model_files(source, nested=True)[1] != before[1]


OWN = """
from softcache.teachers import Adapter, Description, Fingerprint, OutputSpec
import torch

class Good(Adapter):
    adapter: str
    mode: str = "good"

    def describe(self, folder):
        if self.mode == "raises":
            raise KeyError("weights")
        if self.mode == "nothing":
            return None
        if self.mode == "set":
            return Description(Fingerprint("own", {"a": {1, 2}}))
        if self.mode == "labels":
            return Description(Fingerprint("own", {}), {"a": OutputSpec(labels=("z", "y"))})
        answers = {"a": OutputSpec(labels=("z", "y", "x"))}
        return Description(Fingerprint("own", {}), answers, libraries=("no-such-library",))

    def load(self, folder, device):
        if self.mode == "load":
            raise OSError("no such device")
        return self

    def collate(self, samples):
        return torch.stack([torch.tensor(s["x"]) for s in samples])

    def predict(self, batch):
        return [batch] if self.mode == "list" else {"a": batch[:, :3]}

class Half(Adapter):
    adapter: str

    def describe(self, folder):
        return None
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "own:Half"}, r"teachers\.t\.adapter: 'own:Half' lacks load"),
        ({"adapter": "own:torch"}, r"'own:torch' is module, not a function"),
        ({"adapter": "own:Fingerprint"}, "is no subclass of softcache"),
        ({"mode": "raises"}, r"teachers\.t: describe of own:Good raised KeyError: 'weights'"),
        ({"mode": "nothing"}, r"teachers\.t: describe of own:Good returned NoneType"),
        ({"mode": "set"}, r"teachers\.t: describe of own:Good: its fingerprint is no JSON"),
        ({"mode": "labels"}, r"tasks\.a: 3 labels; teacher t has 2"),
        ({"mode": "load"}, "teacher t: load of own:Good raised OSError: no such device"),
        ({"mode": "list"}, "teacher t: predict returned list, not answers by output name"),
    ],
)
def test_adapters_that_are_wrong(shop: Workshop, settings: dict[str, Any], message: str) -> None:
    shop.write("own.py", OWN)
    task = {"kind": "classification", "labels": ["z", "y", "x"], "value_kind": "logits", "teachers": ["t"]}
    shop.recipe |= {"teachers": {"t": {"adapter": "own:Good"} | settings}, "tasks": {"a": task}}
    with pytest.raises(SoftcacheError, match=message):
        shop.build()


def test_what_a_specialist_knows_has_its_order(shop: Workshop) -> None:
    shop.write("own.py", OWN)
    task = {"kind": "classification", "labels": ["w", "x", "y", "z"], "value_kind": "logits", "teachers": ["t"]}
    shop.recipe |= {
        "teachers": {"t": {"adapter": "own:Good"}},
        "tasks": {"a": task | {"knows": {"t": ["x", "y", "z"]}}},
    }
    with pytest.raises(
        RecipeError, match="labels are in another order than those of teacher t: class 0 is 'x' here, 'z'"
    ):
        shop.build()
    shop.recipe["tasks"]["a"]["knows"] = {"t": ["z", "y", "x"]}
    shop.build()
    assert shop.open()["a"].provenance["versions"]["no-such-library"] == "absent"


def test_hooks(shop: Workshop) -> None:
    """A hook does not replace an answer, and concerns no target but its own."""
    one(shop, "{'a': h}", CLASSES).build()
    shop.recipe["teachers"]["t"]["hooks"] = {"b": {"module": "inner"}}
    shop.recipe["tasks"]["b"] = {"kind": "features", "shape": [6], "teachers": ["t"]}
    assert {target.name for target in shop.build().targets} == {"a@t", "b@t"}
    assert shop.open()["b"].provenance["declaration"]["teacher"]["hook"] == {"module": "inner", "pool": "none"}
    shop.recipe["teachers"]["t"]["hooks"] = {"a": {"module": "inner"}}
    with pytest.raises(TeacherError, match="hooks: a is an output of the model too"):
        softcache.build(shop.save(), shop.folder / "other", ["~tasks.b"])


def test_pooling_beside_padding() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(_pooled(Hook(module="m", pool="first"), states, mask), states[[0, 1], [2, 0]])
    with pytest.raises(TeacherError, match="where its padding is cannot be told"):
        _pooled(Hook(module="m", pool="tokens"), states, torch.tensor([[0, 1], [1, 1]]))


def test_an_output_that_is_not_there(shop: Workshop) -> None:
    with pytest.raises(TeacherError, match="no output 'lgoits'; it has output"):
        one(shop, "{'output': h}", CLASSES | {"output": "lgoits"}).build()


def test_numerics_of_answers_that_come_later(shop: Workshop) -> None:
    """Chunks that are worked out while they are taken are worked out as the recipe says."""
    task = {"kind": "sequence", "classes": 6, "value_kind": "logits"}
    one(shop, "{'a': Sequences([1] * len(x), self.later(x))}", task).build()
    shop.recipe["teachers"]["t"]["numerics"] = {"autocast": "bfloat16"}
    softcache.build(shop.save(), shop.folder / "other")
    exact, rounded = (
        cache["a"].lookup(range(40)).values for cache in (shop.open(), softcache.open(shop.folder / "other"))
    )
    assert 1e-4 < float((exact - rounded).abs().max()) < 0.1


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("logits", [[[17.0, -40.0, 3.0]], [[60.0, -60.0, 0.0]]])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_sure_teachers_of_many_labels(divergence: str, logits: list[list[float]], temperature: float) -> None:
    """What a sigmoid lacks of 1 is not lost: of one teacher and of an ensemble, against float64."""
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


def test_ensembles_of_sure_teachers(shop: Workshop) -> None:
    one(shop, "{'a': h * 0 + 17, 'b': h * 0 + 18}", {"kind": "multilabel", "classes": 6, "value_kind": "logits"})
    shop.recipe["tasks"]["b"] = shop.recipe["tasks"]["a"]
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0])
    loss = softcache.distillation_loss(torch.zeros(1, 6), soft, divergence="reverse_kl")
    lacking = np.log((1 / (1 + np.exp(17.0)) + 1 / (1 + np.exp(18.0))) / 2)
    assert float(loss) == pytest.approx(6 * (0.5 * np.log(0.5) + 0.5 * (np.log(0.5) - lacking)), rel=1e-4)


def test_parts_that_are_no_numbers(shop: Workshop) -> None:
    sparse_boxes = "[torch.ones(1, 4).to_sparse()] * len(h)"
    for part, message in (("None", "has the parts boxes of 0 samples"), (sparse_boxes, "expected numbers")):
        answers = f"{{'a': Sequences([1] * len(h), [(range(len(h)), h)], parts={{'boxes': {part}}})}}"
        with pytest.raises(TeacherError, match=message):
            one(shop, answers, DETECTION).build()
    sparse = "{'a': {'values': h, 'variance': (h * 0 + 1).to_sparse()}}"
    with pytest.raises(TeacherError, match="expected numbers"):
        one(shop, sparse, {"kind": "regression", "shape": [6], "parts": ["variance"]}).build()


def test_detections_that_do_not_fit(shop: Workshop) -> None:
    one(shop, f"{{'a': {BOXES.format(n=1, size=1)}}}", DETECTION).build()
    soft = shop.open()["a"].lookup([0, 1])
    assert isinstance(soft, softcache.SoftSequences)
    logits, boxes = torch.randn(2, 3, 6), torch.rand(2, 3, 4)
    for wrong, message in (
        ({"student_logits": torch.randn(2, 3, 5)}, r"expected \[2, Q, 6\]"),
        ({"student_boxes": boxes * torch.nan}, "not finite"),
        ({"matched": torch.full((2, 1), 3)}, "expected a prediction for each box"),
        ({"matched": torch.zeros(2, 1)}, "expected a prediction for each box"),
    ):
        with pytest.raises(TaskError, match=message):
            softcache.detection_loss(**{"student_logits": logits, "student_boxes": boxes, "soft": soft} | wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("distance", ["squared", "absolute", "cosine"])
def test_masked_rows_have_no_gradient(distance: str) -> None:
    task = TaskSpec("features", (3,))
    codec = make_codec("dense", task, {"dtype": "float32"})
    keys = KnownKeys(np.zeros(2), np.zeros(2))
    soft = SoftTargets(
        codec.decoder, codec.encode(torch.tensor([[1.0, 2.0, 3.0], [torch.nan] * 3])), torch.tensor([True, False]), keys
    )
    student = torch.tensor([[1.0, 1.0, 1.0], [torch.inf, 1.0, torch.nan]], requires_grad=True)
    (gradient,) = torch.autograd.grad(softcache.regression_loss(student, soft, distance), student)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_temperatures_beyond_all_use() -> None:
    task = TaskSpec("classification", (3,), "logits")
    codec = make_codec("dense", task, {})
    for temperature in (1e30, torch.tensor([1e30])):
        with pytest.raises(TaskError, match="at most 1e"):
            codec.decoder.log_probs(codec.encode(torch.randn(1, 3)), temperature)


def test_codecs_that_store_no_maps() -> None:
    task = TaskSpec("segmentation", (3, 2, 2), "logits", activation="softmax")
    with pytest.raises(CodecError, match="codec hidden does not store maps"):
        make_codec("hidden", task, {"width": 4})


def test_members_that_are_stored_otherwise(shop: Workshop) -> None:
    one(shop, "{'a': h, 'b': h}", CLASSES)
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"], "store": {"codec": "topk", "k": 2}}
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0, 1])
    assert soft.log_probs(2.0).shape == (2, 6)
    with pytest.raises(TaskError, match="no common shape"):
        soft.values  # noqa: B018


def test_problem_types_of_transformers(tmp_path: Path) -> None:
    from transformers import BertConfig

    from softcache.teachers.transformers_model import TransformersAdapter

    adapter = TransformersAdapter(model="m", task="sequence_classification", column="x")
    problems = [
        ("regression", 1, "regression"),
        (None, 1, "regression"),
        ("multi_label_classification", 3, "multilabel"),
        (None, 3, None),
    ]
    for problem, labels, kind in problems:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        BertConfig(num_labels=labels, problem_type=problem).save_pretrained(tmp_path / "m")
        (tmp_path / "m/model.safetensors").write_bytes(b"")
        answer = adapter.describe(tmp_path).answers["logits"]
        assert answer.kind == kind
        assert answer.classes == (None if kind == "regression" else labels)
    assert adapter.output_for("regression", "dense") == "logits"


def test_classes_that_are_ruled_out(shop: Workshop) -> None:
    """-Inf is stored as it comes where the task says so: of boxes, of labels that are each by itself."""
    masked = "[h[i:i+1].where(h[i:i+1] > h[i].min(), -torch.inf) for i in range(len(h))]"
    boxes = f"Sequences.from_lists({masked}, boxes=[torch.ones(1, 4)] * len(h))"
    one(shop, f"{{'a': {boxes}, 'b': h.where(h > 0, -torch.inf)}}", DETECTION | {"allow_masked": True})
    tags = {"kind": "multilabel", "classes": 6, "value_kind": "logits", "allow_masked": True, "teachers": ["t"]}
    shop.recipe["tasks"]["b"] = tags
    shop.build()
    cache = shop.open()
    found, tagged = cache["a"].lookup(range(40)), cache["b"].lookup(range(40))
    assert ((found.values == -torch.inf).sum(-1) == 1).all()
    assert (found.probs(4.0).sum(-1) - 1).abs().max() < 1e-5
    assert torch.equal(tagged.values == -torch.inf, tagged.probs(4.0) == 0)
    student = torch.zeros(40, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(softcache.distillation_loss(student, tagged, 2.0), student)
    assert gradient.isfinite().all()
    with pytest.raises(CodecError, match="declare allow_masked"):
        softcache.build(shop.save(), shop.folder / "other", ["tasks.a.allow_masked=false"])


def test_uncovered_rows_of_left_out_positions(tmp_path: Path) -> None:
    """Sequences whose rows leave positions out are masked where they are not covered, like any other."""
    language = Language(tmp_path)
    rows = [{"id": i, "tokens": ids, "mask": [0, 0, *[1] * (len(ids) - 2)]} for i, ids in enumerate(language.ids)]
    language.rows(rows)
    teacher = language.recipe["teachers"]["t"]
    del teacher["text"]
    teacher |= {"input_ids": "tokens", "loss_mask": "mask"}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(language.recipe))
    softcache.build(path, language.cache, limit=3)
    softcache.build(path, language.cache, ["~tasks.lm"])
    cache = softcache.open(language.cache)
    (batch,) = softcache.join([{"id": np.array([1, 5, 0])}], cache, id="id", targets=["lm"])
    soft = batch["soft"]["lm"]
    assert soft.mask.any(1).tolist() == [True, False, True]
    assert soft.lengths.tolist() == [len(language.ids[1]) - 1, 0, len(language.ids[0]) - 1]
    alone = cache["lm"].lookup([1])
    assert torch.equal(soft[:1].packed.log_probs(2.0), alone.packed.log_probs(2.0))


def test_an_empty_batch_of_maps(shop: Workshop) -> None:
    task = {"kind": "segmentation", "classes": 3, "size": [1, 2], "activation": "softmax", "value_kind": "logits"}
    one(shop, "{'a': h.view(-1, 3, 1, 2)}", task | {"store": {"codec": "topk", "k": 2}}).build()
    soft = shop.open()["a"].lookup([])
    assert soft.log_probs(2.0).shape == (0, 3, 1, 2)
    assert soft.values.shape == (0, 2, 1, 2)
