"""Every kind of task: built from a real module, read back, tempered, trained on, read by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import zarr
from click.testing import CliRunner
from conftest import Workshop

import softcache
from softcache.cli import main
from softcache.errors import AlignmentError, CodecError, RecipeError, TaskError, TeacherError
from softcache.kinds import KINDS, Kind

MODEL = """
import torch
from torch import nn
from softcache.teachers import Sequences


class Many(nn.Module):
    def __init__(self, **changes):
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(4, 512)
        self.changes = changes

    def forward(self, x):
        h = self.out(x) * 4
        tags, maps, mask = h[:, :7], h[:, 8:8 + 5 * 12].view(-1, 5, 3, 4), h[:, 80:80 + 12].view(-1, 1, 3, 4).sigmoid()
        depth = {"values": h[:, 100:103], "variance": h[:, 103:106].exp()}
        counts = [int(abs(v) * 10) % 4 for v in x[:, 0].tolist()]
        logits = [h[i, 200:200 + 6 * n].view(n, 6) for i, n in enumerate(counts)]
        boxes = [h[i, 300:300 + 4 * n].view(n, 4).sigmoid() for i, n in enumerate(counts)]
        scores = [values.softmax(1).amax(1) for values in logits]
        found = {
            "tags": tags, "tagprobs": tags.sigmoid(), "maps": maps, "mask": mask, "depth": depth,
            "mean": h[:, 100:103], "objects": Sequences.from_lists(logits, boxes=boxes, scores=scores),
            "expert": h[:, 110:114], "some": h[:, 110:113],
        }
        return found | {name: eval(text, {"torch": torch, "h": h, "found": found, "Sequences": Sequences})
                        for name, text in self.changes.items()}


def preprocess(sample):
    return torch.tensor(sample["x"], dtype=torch.float32)
"""
LABELS = ["cat", "dog", "cow", "hen", "bee", "ant"]
DENSE = {"dtype": "float32"}
TASKS: dict[str, dict[str, Any]] = {
    "tags": {"kind": "multilabel", "classes": 7, "value_kind": "logits", "store": DENSE},
    "tagprobs": {"kind": "multilabel", "classes": 7, "value_kind": "probs", "store": DENSE},
    "tags8": {
        "kind": "multilabel", "classes": 7, "value_kind": "logits", "output": "tags", "store": {"codec": "quantized"},
    },
    "maps": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "store": {"format": "zarr", **DENSE},
    },
    "maps2": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "output": "maps", "store": {"format": "zarr", "codec": "topk", "k": 2},
    },
    "maps8": {
        "kind": "segmentation", "classes": 5, "size": [3, 4], "value_kind": "logits", "activation": "softmax",
        "output": "maps", "store": {"codec": "quantized"},
    },
    "mask": {
        "kind": "segmentation", "classes": 1, "size": [3, 4], "value_kind": "probs", "activation": "sigmoid",
        "store": {"format": "zarr", **DENSE},
    },
    "depth": {"kind": "regression", "shape": [3], "parts": ["variance"], "store": DENSE},
    "mean": {"kind": "regression", "shape": [3]},
    "objects": {
        "kind": "detection", "labels": LABELS, "value_kind": "logits", "activation": "softmax", "parts": ["scores"],
        "boxes": "relative_cxcywh", "store": DENSE,
    },
    "expert": {
        "kind": "classification", "labels": LABELS, "value_kind": "logits", "knows": {"t": ["cow", "ant", 3]},
        "dustbin": ["t"], "store": DENSE,
    },
    "some": {
        "kind": "classification", "labels": LABELS, "value_kind": "logits", "knows": {"t": [2, 5, 3]}, "store": DENSE,
    },
}  # fmt: skip
ROWS = 24
T = 3.0


class Kinds(Workshop):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.write("model.py", MODEL)
        self.samples(ROWS)
        self.recipe["teachers"]["t"] = {"model": "model:Many", "preprocess": "model:preprocess", "reads": ["x"]}
        self.recipe["tasks"] = {name: task | {"teachers": ["t"]} for name, task in TASKS.items()}

    def outputs(self) -> dict[str, Any]:
        """What the model answers, without softcache."""
        scope: dict[str, Any] = {}
        exec(MODEL, scope)
        with torch.inference_mode():
            x = torch.from_numpy(np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32))
            return scope["Many"]()(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    made = Kinds(tmp_path_factory.mktemp("kinds"))
    made.build()
    return made


@pytest.fixture(scope="module")
def cache(kinds: Kinds) -> softcache.Cache:
    return kinds.open()


@pytest.fixture(scope="module")
def outputs(kinds: Kinds) -> dict[str, Any]:
    return kinds.outputs()


ORDER = np.random.default_rng(1).permutation(ROWS)


def test_stored_and_verified(kinds: Kinds, cache: softcache.Cache) -> None:
    assert set(cache.targets) == {f"{name}@t" for name in TASKS}
    report = softcache.verify(kinds.cache, level="full")
    assert report.ok, report.problems
    assert kinds.build().up_to_date


def test_multilabel(cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    logits = outputs["tags"][ORDER].double()
    expected = F.logsigmoid(logits / T)
    for name, tolerance in (("tags@t", 1e-5), ("tagprobs@t", 1e-4), ("tags8@t", 0.05)):
        soft = cache[name].lookup(ORDER)
        assert torch.allclose(soft.log_probs(T).double(), expected, atol=tolerance), name
    assert torch.allclose(cache["tagprobs@t"].lookup(ORDER).log_probs(1.0).exp().double(), logits.sigmoid(), atol=1e-6)
    student = torch.randn(ROWS, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(ROWS, 7)
    loss = softcache.distillation_loss(student, cache["tags@t"].lookup(ORDER), T, labels, alpha=0.3)
    p, q = (logits / T).sigmoid(), (student / T).sigmoid()
    both = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    hard = F.binary_cross_entropy_with_logits(student, labels.double(), reduction="none")
    wanted = (0.3 * T**2 * both.sum(1) + 0.7 * hard.sum(1)).mean()
    assert torch.allclose(loss, wanted, rtol=1e-5)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("name", "tolerance"), [("maps@t", 1e-5), ("maps2@t", None), ("maps8@t", 0.2)])
def test_segmentation(cache: softcache.Cache, outputs: dict[str, Any], name: str, tolerance: float | None) -> None:
    logits = outputs["maps"][ORDER].double()
    soft = cache[name].lookup(ORDER)
    found = soft.log_probs(T)
    assert found.shape == (ROWS, 5, 3, 4)
    expected = (logits / T).log_softmax(1)
    if tolerance is None:
        top = logits.topk(2, dim=1).indices
        assert torch.allclose(found.double().gather(1, top), expected.gather(1, top), atol=3e-3)
        sparse = soft.sparse_log_probs(T)
        assert sparse.ids.shape == (ROWS, 2, 3, 4)
        assert torch.equal(sparse.ids, top)
        tail = expected.exp().scatter(1, top, 0).sum(1)
        assert torch.allclose(sparse.log_tail.exp().double(), tail, atol=1e-3)
    else:
        assert torch.allclose(found.double(), expected, atol=tolerance)
    # One temperature for each row is the same as each row at its own.
    each = torch.linspace(0.5, 20, ROWS)
    alone = torch.cat([soft[i].log_probs(float(t)) for i, t in enumerate(each)])
    assert torch.allclose(soft.log_probs(each), alone, atol=1e-5)


def test_segmentation_loss(cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    logits = outputs["maps"][ORDER].double()
    student = torch.randn(ROWS, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    labels, keep = torch.randint(5, (ROWS, 3, 4)), torch.rand(ROWS, 3, 4) > 0.3
    soft = cache["maps@t"].lookup(ORDER)
    loss = softcache.distillation_loss(student, soft, T, labels, alpha=0.5, mask=keep)
    log_p, log_q = (logits / T).log_softmax(1), (student / T).log_softmax(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    places = 0.5 * T**2 * kl + 0.5 * F.cross_entropy(student, labels, reduction="none")
    wanted = places[keep].mean()
    assert torch.allclose(loss, wanted, rtol=1e-5)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(ours, theirs, atol=1e-6)
    each = softcache.distillation_loss(student, soft, T, reduction="none")
    assert torch.allclose(each, T**2 * kl, rtol=1e-4)
    full = float((T**2 * kl).mean().detach())
    rounded = softcache.distillation_loss(student, cache["maps8@t"].lookup(ORDER), T).detach()
    assert float(rounded) == pytest.approx(full, rel=0.02)
    # The tail counts as one class there: never more than the divergence of all classes.
    lumped = softcache.distillation_loss(student, cache["maps2@t"].lookup(ORDER), T).detach()
    assert 0.7 * full < float(lumped) <= full
    with pytest.raises(TaskError, match="resize the student's maps"):
        softcache.distillation_loss(student[:, :, :2], soft, T)
    binary = torch.randn(ROWS, 1, 3, 4, dtype=torch.float64)
    p, q = torch.sigmoid(torch.logit(outputs["mask"][ORDER].double()) / T), torch.sigmoid(binary / T)
    wanted = T**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean()
    assert torch.allclose(softcache.distillation_loss(binary, cache["mask@t"].lookup(ORDER), T), wanted, rtol=1e-4)


def test_regression(cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    mean, variance = outputs["depth"]["values"][ORDER], outputs["depth"]["variance"][ORDER]
    soft = cache["depth@t"].lookup(ORDER)
    assert torch.equal(soft.values, mean)
    assert torch.equal(soft.parts["variance"], variance)
    assert cache["mean@t"].lookup(ORDER).parts == {}
    student = torch.randn(ROWS, 3, requires_grad=True)
    assert torch.allclose(softcache.regression_loss(student, soft), ((student - mean) ** 2 / variance).mean())
    assert torch.allclose(softcache.regression_loss(student, soft, "absolute"), (student - mean).abs().mean())
    cosine = 1 - F.cosine_similarity(student, mean)
    assert torch.allclose(softcache.regression_loss(student, soft, "cosine", "none"), cosine, atol=1e-6)
    with pytest.raises(TaskError, match="has no temperature"):
        soft.log_probs(2.0)
    with pytest.raises(TaskError, match=r"use softcache\.regression_loss"):
        softcache.distillation_loss(student, soft)
    with pytest.raises(TaskError, match=r"use softcache\.distillation_loss"):
        softcache.regression_loss(torch.randn(ROWS, 7), cache["tags@t"].lookup(ORDER))
    with pytest.raises(TaskError, match="nothing is broadcast"):
        softcache.regression_loss(student[:, :1], soft)


def test_detection(cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    stored = outputs["objects"]
    (_, values), boxes, scores = stored.chunks[0], stored.parts["boxes"], stored.parts["scores"]
    by_row = torch.split(values, stored.lengths)
    assert 0 in stored.lengths
    soft = cache["objects@t"].lookup(ORDER)
    assert isinstance(soft, softcache.SoftSequences)
    for place, row in enumerate(ORDER):
        n = stored.lengths[row]
        assert soft.lengths[place] == n
        assert torch.equal(soft.values[place, :n], by_row[row])
        assert torch.equal(soft.parts["boxes"][place, :n], boxes[row])
        assert torch.equal(soft.parts["scores"][place, :n], scores[row])
        assert not soft.mask[place, n:].any()
    picked = soft[torch.tensor([3, 0])]
    n = int(picked.lengths[0])
    assert torch.equal(picked.parts["boxes"][0, :n], boxes[ORDER[3]])


def test_detection_loss(cache: softcache.Cache) -> None:
    """A student that predicts the stored boxes, shuffled among others, is matched with them and has no loss."""
    soft = cache["objects@t"].lookup(ORDER)
    assert isinstance(soft, softcache.SoftSequences)
    torch.manual_seed(0)
    queries = soft.mask.shape[1] + 3
    logits, boxes = torch.randn(ROWS, queries, 6), torch.rand(ROWS, queries, 4) * 0.1
    places = torch.stack([torch.randperm(queries) for _ in range(ROWS)])[:, : soft.mask.shape[1]]
    for row, place in soft.mask.nonzero().tolist():
        logits[row, places[row, place]] = soft.values[row, place]
        boxes[row, places[row, place]] = soft.parts["boxes"][row, place]
    matched = softcache.match_detections(logits, boxes, soft)
    assert torch.equal(matched[soft.mask], places[soft.mask])
    assert (matched[~soft.mask] == -1).all()
    assert float(softcache.detection_loss(logits, boxes, soft, T)) == pytest.approx(0, abs=1e-5)
    boxes.requires_grad_()
    loss = softcache.detection_loss(logits, boxes + 0.01, soft, T, overlap_weight=0)
    assert float(loss.detach()) == pytest.approx(5 * 4 * 0.01, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, boxes)
    assert float(gradient.abs().sum()) == pytest.approx(5 * 4, rel=1e-4)
    with pytest.raises(TaskError, match="predicts 1 boxes"):
        softcache.detection_loss(logits[:, :1], boxes[:, :1], soft)
    with pytest.raises(TaskError, match="has no boxes"):
        softcache.detection_loss(logits, boxes, cache["tags@t"].lookup(ORDER))  # type: ignore[arg-type]


def test_partial_label_spaces(cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    """A specialist is compared on what it knows: sums over its dustbin (Hinton et al., section 5.3), or these alone."""
    known = [2, 5, 3]
    others = [c for c in range(6) if c not in known]
    student = torch.randn(ROWS, 6, dtype=torch.float64, requires_grad=True)
    q = (student / T).softmax(1)
    with_dustbin = torch.cat([q[:, known], q[:, others].sum(1, keepdim=True)], 1)
    alone = q[:, known] / q[:, known].sum(1, keepdim=True)
    for name, compared in (("expert", with_dustbin), ("some", alone)):
        soft = cache[f"{name}@t"].lookup(ORDER)
        assert soft.task.label_space == 6
        assert soft.task.known == (2, 5, 3)
        p = (outputs[name][ORDER].double() / T).softmax(1)
        wanted = T**2 * (p * (p / compared).log()).sum(1).mean()
        loss = softcache.distillation_loss(student, soft, T)
        assert torch.allclose(loss, wanted, rtol=1e-5)
        (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student, retain_graph=True)
        assert torch.allclose(ours, theirs, atol=1e-6)
        labels = torch.randint(6, (ROWS,))
        both = softcache.distillation_loss(student, soft, T, labels, alpha=0.5)
        assert torch.allclose(both, 0.5 * wanted + 0.5 * F.cross_entropy(student, labels), rtol=1e-5)


def test_others_read_it(kinds: Kinds, cache: softcache.Cache, outputs: dict[str, Any]) -> None:
    """Plain `datasets` and plain `zarr` read each kind's columns."""
    objects = datasets.load_dataset(str(kinds.cache), "objects@t", split="train").with_format("numpy")
    row = next(i for i, n in enumerate(outputs["objects"].lengths) if n > 1)
    assert np.array_equal(objects[row]["boxes"], outputs["objects"].parts["boxes"][row].numpy())
    assert np.array_equal(objects[row]["scores"], outputs["objects"].parts["scores"][row].numpy())
    depth = datasets.load_dataset(str(kinds.cache), "depth@t", split="train").with_format("numpy")[:]
    assert np.array_equal(depth["variance"], outputs["depth"]["variance"].numpy())
    first = min((kinds.cache / "data/maps@t").glob("*-000000-*.zarr"))
    group = zarr.open_group(first, mode="r")
    assert np.array_equal(group["values"][:], outputs["maps"][:10].numpy())  # type: ignore[index]
    codes = datasets.load_dataset(str(kinds.cache), "maps8@t", split="train").with_format("numpy")[:]["codes"]
    assert codes.shape == (ROWS, 5 * 3 * 4)


def test_errors_are_measured(cache: softcache.Cache) -> None:
    for name in ("tags8@t", "maps2@t", "maps8@t", "objects@t"):
        errors = cache[name].errors
        assert errors is not None
        assert errors.rows > 0
        assert 0 <= errors.at["1"]["tv"][1] < 0.1, name  # type: ignore[operator]
    assert cache["mean@t"].errors is None


BAD_BOXES = "Sequences.from_lists([h[:1, :6]] * len(h), boxes=[h[:1, :4] / 0] * len(h), scores=[h[0, :1]] * len(h))"
NO_SCORES = "Sequences.from_lists([h[:1, :6]] * len(h), boxes=[h[:1, :4]] * len(h))"
CHANGES: list[tuple[str, str, type[Exception], str]] = [
    ("depth", "h[:, 100:103]", TeacherError, "output 'depth' is a torch.strided cpu tensor; expected a mapping"),
    ("depth", "{'values': h[:, :3], 'variance': -h[:, :3] ** 2}", CodecError, "variance that is not above 0"),
    ("depth", "{'values': h[:, :3], 'variance': h[:, :2]}", TeacherError, r"variance is torch.float32 \[4, 2\]"),
    ("objects", BAD_BOXES, CodecError, "boxes that is not finite"),
    ("objects", NO_SCORES, TeacherError, "has the parts"),
    ("tags", "h[:, :7].sigmoid()", TeacherError, "looks like probabilities .all are between 0 and 1; samples"),
    ("tagprobs", "h[:, :7]", CodecError, "outside"),
    ("maps", "found['maps'].softmax(1)", TeacherError, "looks like probabilities .each row sums to 1; samples 0"),
    ("maps", "found['maps'][:, :, :2]", TeacherError, r"\[4, 5, 2, 4\] for 4 samples"),
]


@pytest.mark.parametrize(("output", "answer", "error", "message"), CHANGES)
def test_wrong_answers(tmp_path: Path, output: str, answer: str, error: type[Exception], message: str) -> None:
    kinds = Kinds(tmp_path)
    kinds.recipe["tasks"] = {n: t for n, t in kinds.recipe["tasks"].items() if n == output}
    kinds.recipe["teachers"]["t"]["arguments"] = {output: answer}
    if "sigmoid" in answer:  # all between 0 and 1: for a few logits that may well be
        kinds.samples(160)
        kinds.recipe["build"] = {"batch_size": 40}
    with pytest.raises(error, match=message):
        kinds.build()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.maps.activation=null", "activation is None; expected one of softmax, sigmoid"),
        ("tasks.maps.size=null", "segmentation needs size"),
        ("tasks.tags.size=[2,2]", "multilabel has no size"),
        ("tasks.tags.value_kind=log_probs", "with sigmoid give logits or probs"),
        ("tasks.tags.store={codec: topk}", "codec topk stores distributions over classes, not multilabel"),
        ("tasks.objects.boxes=null", "boxes is None; expected one of xyxy"),
        ("tasks.objects.parts=[scores, size]", "parts are boxes, scores, size; detection can have boxes, scores"),
        ("tasks.objects.store.format=zarr", "detection targets are stored in Arrow shards alone"),
        ("tasks.depth.value_kind=logits", "regression has no value_kind"),
        ("tasks.expert.knows={t: [cow, cat, fish]}", "knows: 'fish' is none of the labels"),
        ("tasks.expert.knows={t: [1, 1]}", "known classes are"),
        ("tasks.expert.knows={u: [1, 2]}", "u is not among the task's teachers"),
        ("tasks.expert.knows={}", "known, space and dustbin belong together"),
    ],
)
def test_wrong_recipes(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        softcache.build(Kinds(tmp_path).save(), tmp_path / "c", [override])


def test_targets_that_do_not_cover_every_sample(tmp_path: Path) -> None:
    """A multi-task batch has all of them: what a task does not cover is masked, and counts in no loss."""
    kinds = Kinds(tmp_path)
    names = ["tags", "maps", "depth", "objects"]
    kinds.recipe["tasks"] = {name: kinds.recipe["tasks"][name] for name in names}
    kinds.build(limit=9)
    kinds.build("~tasks.maps", "~tasks.depth", "~tasks.objects")
    cache, outputs = kinds.open(), kinds.outputs()
    covered = torch.from_numpy(ORDER < 9)
    loader = [{"id": ORDER[:10]}, {"id": ORDER[10:]}]
    batches = [batch["soft"] for batch in softcache.join(loader, cache, id="id")]
    data = softcache.attach([{"id": int(i)} for i in ORDER], cache, id="id")
    batches.append(softcache.collate(data.__getitems__(list(range(ROWS))))["soft"])
    for soft, there in zip(batches, [covered[:10], covered[10:], covered], strict=True):
        assert soft["tags"].mask.all()
        assert torch.equal(soft["maps"].mask, there)
        assert soft["depth"].values[~there].isnan().all()
        assert soft["depth"].parts["variance"][~there].isnan().all()
        assert (soft["objects"].lengths[~there] == 0).all()
        assert not soft["objects"].mask[~there].any()
    soft, rows = batches[-1], torch.from_numpy(ORDER)[covered]
    student = torch.randn(ROWS, 5, 3, 4)
    loss = softcache.distillation_loss(student, soft["maps"], T)
    log_p, log_q = (outputs["maps"][rows] / T).log_softmax(1), (student[covered] / T).log_softmax(1)
    assert torch.allclose(loss, T**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean(), rtol=1e-4)
    with pytest.raises(AlignmentError, match="no answer of maps@t"):
        cache["maps"].lookup(ORDER)
    with pytest.raises(AlignmentError, match=r"no answer of (maps|depth|objects)@t"):
        softcache.attach([{"id": i} for i in range(15, ROWS)], cache, id="id")
    with pytest.raises(AlignmentError, match="99"):
        next(iter(softcache.join([{"id": np.array([1, 99])}], cache, id="id")))


OUTSIDE = """
import json
from pathlib import Path
from typing import Literal

import torch
from softcache.teachers import Adapter, Description, Fingerprint, OutputSpec


class Lengths(Adapter):
    adapter: Literal["own:Lengths"]
    scale: float = 1.0

    @property
    def columns(self):
        return ["x"]

    def describe(self, folder: Path) -> Description:
        outputs = {"length": OutputSpec("regression", shape=(1,))}
        return Description(Fingerprint("lengths", {"scale": self.scale}), outputs)

    def load(self, folder: Path, device: str):
        return self

    def collate(self, samples):
        return torch.stack([torch.tensor(sample["x"]) for sample in samples])

    def predict(self, batch):
        halves = torch.stack([batch[:, :2].norm(dim=1), batch[:, 2:].norm(dim=1)], 1)
        return {"length": batch.norm(dim=1, keepdim=True) * self.scale, "half": halves, "pairs": halves[:, :, None]}
"""


def test_an_adapter_and_a_kind_from_outside(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter is one class, a kind one line: neither needs a change of the package."""
    workshop.write("own.py", OUTSIDE)
    monkeypatch.setitem(KINDS, "ranking", Kind("list", ("sigmoid",), 1))
    workshop.recipe["teachers"] = {"t": {"adapter": "own:Lengths", "scale": 2.0}}
    workshop.recipe["tasks"] = {
        "length": {"kind": "regression", "shape": [1], "teachers": ["t"], "store": DENSE},
        "half": {"kind": "classification", "classes": 2, "value_kind": "logits", "teachers": ["t"], "store": DENSE},
        "pairs": {"kind": "ranking", "classes": 1, "value_kind": "logits", "teachers": ["t"], "store": DENSE},
    }
    workshop.build()
    cache, x = workshop.open(), workshop.inputs()
    assert torch.allclose(cache["length"].lookup(range(40)).values, 2 * x.norm(dim=1, keepdim=True))
    halves = torch.stack([x[:, :2].norm(dim=1), x[:, 2:].norm(dim=1)], 1)
    assert torch.equal(cache["half"].lookup(range(40)).values, halves)
    soft = cache["pairs"].lookup(range(40))
    assert torch.allclose(soft.log_probs(T), F.logsigmoid(halves[:, :, None] / T))
    p = (halves / T).sigmoid().double()
    wanted = T**2 * (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).mean()
    assert float(softcache.distillation_loss(torch.zeros(40, 2, 1), soft, T)) == pytest.approx(float(wanted), rel=1e-4)
    assert softcache.verify(workshop.cache).ok
    assert cache["pairs"].errors is not None
    workshop.recipe["tasks"]["length"]["shape"] = [2]
    with pytest.raises(RecipeError, match=r"tasks\.length: shape is \(2,\); teacher t answers \(1,\)"):
        workshop.build()
    workshop.recipe["teachers"]["t"]["scale"] = "two"
    with pytest.raises(RecipeError, match=r"teachers\.t\.scale: 'two': input should be a valid number"):
        workshop.build()


def test_labels_in_the_order_of_the_transfer_set(workshop: Workshop) -> None:
    """A column of class numbers says what they are called: a task that calls them otherwise is refused."""
    workshop.write(
        "data.py",
        """
        import datasets
        import numpy as np

        def samples():
            x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
            features = {"id": datasets.Value("int64"), "x": datasets.List(datasets.Value("float32"), length=4),
                        "label": datasets.ClassLabel(names=["cat", "dog", "cow", "hen", "bee"])}
            columns = {"id": range(8), "x": x.tolist(), "label": [i % 5 for i in range(8)]}
            return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        """,
    )
    del workshop.recipe["tasks"]["feat"]
    task = workshop.recipe["tasks"]["cls"]
    del task["classes"]
    task["labels"] = ["cat", "cow", "dog", "hen", "bee"]
    with pytest.raises(
        RecipeError, match=r"tasks\.cls: labels are in another order than those of column 'label' of the"
    ):
        workshop.build()
    task["labels"] = ["cat", "dog", "cow", "hen", "ant"]
    with pytest.raises(RecipeError, match="class 4 is 'ant' here, 'bee' there"):
        workshop.build()
    task["labels"] = ["cat", "dog", "cow", "hen", "bee", "ant"]
    with pytest.raises(RecipeError, match=r"6 classes; column 'label' of the transfer set has 5: 'cat', 'dog'"):
        workshop.build()
    task["labels"].pop()
    assert workshop.build().targets[0].accuracy is not None


def test_numerics_are_explicit_and_recorded(workshop: Workshop) -> None:
    workshop.build()
    workshop.recipe["teachers"]["t"]["numerics"] = {"autocast": "bfloat16"}
    with pytest.raises(softcache.SoftcacheError, match=r"teacher\.config\.numerics\.autocast: absent -> bfloat16"):
        workshop.build()
    softcache.build(workshop.save(), workshop.folder / "other")
    exact, rounded = workshop.open()["cls"], softcache.open(workshop.folder / "other")["cls"]
    gap = (exact.lookup(range(40)).values - rounded.lookup(range(40)).values).abs().max()
    assert 1e-4 < float(gap) < 0.1
    before = torch.get_float32_matmul_precision()
    assert before == "highest"


def test_commands(kinds: Kinds, tmp_path: Path) -> None:
    """The command line knows every kind."""

    def run(*words: Any) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    said = run("info", kinds.cache)
    for line in (
        "tags@t: multilabel [7], logits (sigmoid), dense dtype=float32, arrow",
        "expert@t: classification [4], logits of 3 of 6 classes and the rest, dense",
        "objects@t: detection [6], logits, boxes relative_cxcywh, scores, dense",
        "depth@t: regression [3], values, variance, dense",
        "off the teacher, over 3 places",
    ):
        assert line in said
    run("verify", kinds.cache, "--level", "full")
    run("export", kinds.cache, "-o", tmp_path / "out")
    exported = pq.read_table(tmp_path / "out/depth@t/train.parquet")
    assert exported.column_names == ["values", "variance", "valid", "sample_id", "view"]
    assert "boxes" in pq.read_table(tmp_path / "out/objects@t/train.parquet").column_names
    run("validate", kinds.folder / "recipe.yaml")
    plan = json.loads(run("plan", kinds.folder / "recipe.yaml", "-o", tmp_path / "new", "--json"))
    tried = {target["name"]: target["codecs"] for target in plan["targets"]}
    assert [trial["codec"]["name"] for trial in tried["maps@t"]] == ["dense", "dense", "quantized"]
    assert max(tried["maps@t"][1]["tv"].values()) < 1e-3, "float16 of what is stored as float32"
    assert tried["depth@t"] == []


def test_accuracy(tmp_path: Path) -> None:
    """Against the labels, in every codec; a specialist is asked about what it knows, or about everything."""
    kinds = Kinds(tmp_path)
    outputs = kinds.outputs()
    tags = outputs["tags"]
    labels = [i % 6 for i in range(ROWS)]
    task = {"kind": "classification", "classes": 7, "value_kind": "logits", "output": "tags", "label": "label"}
    kinds.recipe["tasks"] = {
        "dense": task | {"teachers": ["t"]},
        "topk": task | {"teachers": ["t"], "store": {"codec": "topk", "k": 2}},
        "sampled": task | {"teachers": ["t"], "store": {"codec": "sampled", "draws": 255}},
        "expert": TASKS["expert"] | {"teachers": ["t"], "label": "label"},
        "some": TASKS["some"] | {"teachers": ["t"], "label": "label"},
    }
    samples = json.loads((kinds.folder / "samples.json").read_text())
    (kinds.folder / "samples.json").write_text(json.dumps(samples | {"label": labels}))
    found = {target.name: target.accuracy for target in kinds.build().targets}
    truth, place = torch.tensor(labels), {2: 0, 5: 1, 3: 2}
    expected = float((tags.argmax(1) == truth).double().mean())
    for name in ("dense", "topk", "sampled"):
        assert found[f"{name}@t"] == pytest.approx(expected), name
    with_rest = torch.tensor([place.get(label, 3) for label in labels])
    assert found["expert@t"] == pytest.approx(float((outputs["expert"].argmax(1) == with_rest).double().mean()))
    known = with_rest < 3
    right = (outputs["some"].argmax(1) == with_rest)[known]
    assert found["some@t"] == pytest.approx(float(right.double().mean()))
