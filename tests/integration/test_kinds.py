"""Every kind of task: built from a real module, read back, tempered, trained on, read by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import zarr
from click.testing import CliRunner
from closeness import close
from every_kind import ORDER, ROWS, TASKS, Kinds, T

import softcache
from softcache.cli import main
from softcache.errors import TaskError


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
    close(soft.values, mean)
    close(soft.parts["variance"], variance)
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
        close(soft.values[place, :n], by_row[row])
        close(soft.parts["boxes"][place, :n], boxes[row])
        close(soft.parts["scores"][place, :n], scores[row])
        assert not soft.mask[place, n:].any()
    picked = soft[torch.tensor([3, 0])]
    n = int(picked.lengths[0])
    close(picked.parts["boxes"][0, :n], boxes[ORDER[3]])


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
    """A specialist is compared on what it knows: sums over its dustbin (Hinton et al., section 5.4), or these alone."""
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
    close(objects[row]["boxes"], outputs["objects"].parts["boxes"][row].numpy())
    close(objects[row]["scores"], outputs["objects"].parts["scores"][row].numpy())
    depth = datasets.load_dataset(str(kinds.cache), "depth@t", split="train").with_format("numpy")[:]
    close(depth["variance"], outputs["depth"]["variance"].numpy())
    first = min((kinds.cache / "data/maps@t").rglob("*-000000-*.zarr"))
    group = zarr.open_group(first, mode="r")
    close(group["values"][:], outputs["maps"][:10].numpy())  # type: ignore[index]
    codes = datasets.load_dataset(str(kinds.cache), "maps8@t", split="train").with_format("numpy")[:]["codes"]
    assert codes.shape == (ROWS, 5 * 3 * 4)


def test_errors_are_measured(cache: softcache.Cache) -> None:
    for name in ("tags8@t", "maps2@t", "maps8@t", "objects@t"):
        errors = cache[name].errors
        assert errors is not None
        assert errors.rows > 0
        assert 0 <= errors.at["1"]["tv"][1] < 0.1, name  # type: ignore[operator]
    assert cache["mean@t"].errors is None


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
        "error against the teacher over 3 places",
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
