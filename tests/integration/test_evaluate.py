"""Teachers compared on labelled samples: figures against scikit-learn's and plain numpy's."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import MODEL, Workshop
from sklearn import metrics as reference

from softcache.assess.evaluate import Evaluation, evaluate
from softcache.assess.metrics import fitted_temperature, measure
from softcache.cli import main
from softcache.errors import (
    MissingExtra,
    RecipeError,
)


def label(workshop: Workshop) -> np.ndarray:
    """Label most samples with what the teacher says, the others with something else."""
    right = workshop.answers().argmax(1).numpy()
    right[::4] = (right[::4] + 1) % 5
    made = json.loads((workshop.folder / "samples.json").read_text())
    (workshop.folder / "samples.json").write_text(json.dumps(made | {"label": right.tolist()}))
    return right


def compare(workshop: Workshop, *overrides: str, **options: Any) -> Evaluation:
    return evaluate(workshop.save(), overrides, **options)


def ece(p: np.ndarray, right: np.ndarray) -> float:
    """Fifteen bins of equal width, by the definition."""
    confidence, hit = p.max(1), p.argmax(1) == right
    bins = np.minimum((confidence * 15).astype(int), 14)
    return float(sum(abs(hit[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)))


def test_figures(workshop: Workshop) -> None:
    workshop.samples(400)
    right = label(workshop)
    found = compare(workshop)
    assert found.left_out == {"feat@t": "features cannot be compared with labels; only classification can"}
    (candidate,) = found.candidates
    assert (candidate.task, candidate.teacher, candidate.samples) == ("cls", "t", 400)
    assert candidate.parameters == 4 * 5 + 5 + 4 * 3 + 3
    assert candidate.samples_per_second
    assert candidate.memory_bytes is not None
    logits = workshop.answers().numpy()
    p = torch.from_numpy(logits).softmax(1).numpy()
    m, top = candidate.metrics, logits.argmax(1)
    assert m.accuracy == pytest.approx((top == right).mean())
    assert m.top5 == 1
    assert m.f1 == pytest.approx(reference.f1_score(right, top, average="macro"), abs=1e-6)
    assert list(m.recall.values()) == pytest.approx(reference.recall_score(right, top, average=None), abs=1e-6)
    assert m.nll == pytest.approx(reference.log_loss(right, p), rel=1e-5)
    assert m.ece == pytest.approx(ece(p, right), abs=1e-5)
    assert m.fitted_temperature is not None
    grid = np.exp(np.linspace(-4.1, 4.1, 400))
    losses = [reference.log_loss(right, torch.from_numpy(logits / t).softmax(1).numpy()) for t in grid]
    best = float(grid[np.argmin(losses)])
    assert m.fitted_temperature == pytest.approx(best, rel=0.05)
    assert m.fitted_nll <= min(losses) + 1e-6
    for t, entropy in m.entropy.items():
        q = torch.from_numpy(logits / float(t)).softmax(1).numpy()
        assert entropy == pytest.approx(-(q * np.log(q)).sum(1).mean(), rel=1e-4)
    assert not workshop.cache.exists()


def test_several_teachers(workshop: Workshop) -> None:
    workshop.recipe["teachers"]["sharp"] = workshop.recipe["teachers"]["t"] | {"arguments": {"scale": 3.0}}
    workshop.recipe["tasks"]["cls"]["teachers"] = ["t", "sharp"]
    right = label(workshop)
    found = compare(workshop)
    names = [c.teacher for c in found.candidates]
    assert names == ["t", "sharp", "all together"]
    plain, sharp, both = (c.metrics for c in found.candidates)
    assert sharp.fitted_temperature == pytest.approx(3 * plain.fitted_temperature, rel=1e-3)
    assert sharp.accuracy == plain.accuracy
    p = sum((workshop.answers() * s).softmax(1) for s in (1, 3)) / 2
    assert both.nll == pytest.approx(reference.log_loss(right, p.numpy()), rel=1e-4)
    assert (both.accuracy, found.candidates[2].parameters) == (plain.accuracy, None)


def test_samples_without_labels_and_bad_ones_are_left_out(workshop: Workshop) -> None:
    def change(x: np.ndarray) -> None:
        x[3] = 1000

    workshop.samples(40, change=change)
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = [-1 if i < 10 and i != 3 else i % 5 for i in range(40)]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    (candidate,) = compare(workshop, "build.batch_size=3").candidates
    assert candidate.samples == 30
    right = workshop.answers()[10:].argmax(1).numpy() == np.arange(10, 40) % 5
    assert candidate.metrics.accuracy == pytest.approx(right.mean())
    made["label"] = [-1] * 40
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    with pytest.raises(RecipeError, match="no sample has a label for cls@t"):
        compare(workshop)


def test_names_of_classes_and_specialists(workshop: Workshop) -> None:
    made = json.loads((workshop.folder / "samples.json").read_text())
    made["label"] = ["abcde"[i % 5] for i in range(40)]
    (workshop.folder / "samples.json").write_text(json.dumps(made))
    task = workshop.recipe["tasks"]["cls"]
    del task["classes"]
    task["labels"] = list("abcde")
    (plain,) = compare(workshop).candidates
    assert list(plain.metrics.recall) == list("abcde")
    task["labels"] = list("abcdefgh")
    task |= {"knows": {"t": list("edcb")}, "dustbin": ["t"]}
    (expert,) = compare(workshop).candidates
    right = np.array([{1: 3, 2: 2, 3: 1, 4: 0}.get(i % 5, 4) for i in range(40)])
    assert set(expert.metrics.recall) == {*"bcde", "all others"}
    assert expert.metrics.accuracy == pytest.approx((workshop.answers().argmax(1).numpy() == right).mean())


def test_some_of_many(workshop: Workshop) -> None:
    workshop.samples(100)
    (candidate,) = compare(workshop, limit=10).candidates
    chosen = np.linspace(0, 99, 10).astype(int)
    right = workshop.answers()[chosen].argmax(1).numpy() == chosen % 5
    assert candidate.metrics.accuracy == pytest.approx(right.mean())
    with pytest.raises(RecipeError, match="limit is 0"):
        compare(workshop, limit=0)


def test_augmented_recipes_are_measured_on_plain_samples(workshop: Workshop) -> None:
    plain = compare(workshop).candidates[0].metrics
    workshop.write("augment.py", "def zero(x):\n    return x * 0\n")
    workshop.recipe["augmentation"] = {"transform": "augment:zero", "column": "x"}
    assert compare(workshop).candidates[0].metrics == plain


def test_nothing_to_compare(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    del workshop.recipe["tasks"]["cls"]["label"]
    with pytest.raises(RecipeError, match="no classification task has a label"):
        compare(workshop)
    workshop.recipe["tasks"]["cls"]["label"] = "label"
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    with pytest.raises(MissingExtra, match=r"softcache\[evaluate\]"):
        compare(workshop)


def test_hidden_states_are_left_out(workshop: Workshop) -> None:
    workshop.write("model.py", MODEL.replace('"feat": self', '"deep": x, "feat": self'))
    workshop.recipe["teachers"]["t"]["output_layer"] = "head"
    workshop.recipe["tasks"]["deep"] = workshop.recipe["tasks"]["cls"] | {
        "store": {"codec": "hidden", "width": 4},
        "output": "deep",
    }
    assert "gives hidden states" in compare(workshop).left_out["deep@t"]


def test_ruled_out_labels_have_no_temperature() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [1.0, 0.0]])
    found = measure(logits, torch.tensor([1, 0]))
    assert (found.nll, found.fitted_temperature, found.fitted_ece) == (None, None, None)
    assert fitted_temperature(torch.zeros(3, 4), torch.tensor([0, 1, 2])) is None
    right = torch.tensor([0, 1])
    assert fitted_temperature(torch.eye(2), right) < 0.05, "never wrong: as sharp as can be"


def test_the_command(workshop: Workshop) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(workshop.save()), "--limit", "40"])
    assert result.exit_code == 0, result.output
    for text in ("accuracy", "best T", "samples/s", "lowest recall of t: ", "feat@t is left out", " 40 "):
        assert text in result.stdout
    assert result.stdout.rstrip().endswith("recipe.yaml")
    result = CliRunner().invoke(main, ["evaluate", str(workshop.save()), "--json"])
    assert json.loads(result.stdout)["candidates"][0]["metrics"]["entropy"].keys() == {"1", "2", "4", "8"}


GIVEN = """

import json
import numpy as np
GIVEN = np.float32(json.loads((HERE / "samples.json").read_text())["x"][::4])


def but(number):
    def see(sample):
        if sample["x"][0] == GIVEN[number]:
            raise ValueError("not this one")
        return preprocess(sample)
    return see


no_three, no_seven = but(3), but(7)
"""


def test_teachers_together_are_measured_on_samples_that_all_answer(workshop: Workshop) -> None:
    workshop.relabel(workshop.answers().argmax(1).tolist())
    workshop.write("model.py", MODEL + GIVEN)
    teacher = workshop.recipe["teachers"]["t"]
    workshop.recipe["teachers"] = {
        name: teacher | {"preprocess": f"model:{see}"} for name, see in (("a", "no_three"), ("b", "no_seven"))
    }
    workshop.recipe["tasks"] = {"cls": workshop.recipe["tasks"]["cls"] | {"teachers": ["a", "b"]}}
    *both, together = evaluate(workshop.save()).candidates
    assert [(c.samples, c.without_answer, c.metrics.accuracy) for c in both] == [(39, 1, 1.0)] * 2
    assert (together.samples, together.without_answer, together.metrics.accuracy) == (38, 2, 1.0)


def test_answers_that_are_not_stored_are_not_measured(workshop: Workshop) -> None:
    nothing = "self.head(x).masked_fill(x[:, :1] == GIVEN[5], torch.nan)"
    workshop.write("model.py", MODEL.replace("self.head(x) * self.scale", nothing) + GIVEN)
    workshop.relabel(workshop.answers().argmax(1).tolist())
    (candidate,) = evaluate(workshop.save()).candidates
    assert (candidate.samples, candidate.without_answer, candidate.metrics.accuracy) == (39, 1, 1.0)
    shown = CliRunner().invoke(main, ["evaluate", str(workshop.save())]).stdout
    assert "t: 1 labelled samples without an answer" in shown
