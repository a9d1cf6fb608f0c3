"""Specialists and a generalist read as one target: the digits, with two specialists that know three digits each."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Workshop
from expressions import CLASSES, answered_by_expression, one
from torch.utils.data import DataLoader

import softcache
from softcache.errors import AlignmentError, TaskError
from softcache.soft.specialists import Specialists

ROOT = Path(__file__).parents[2]
KNOWN = {"strokes": (1, 8, 9), "curves": (3, 5, 9)}
FEW = """
import model


class Few(model.Linear):
    def forward(self, x):
        return {"few": super().forward(x)["cls"][:, :3]}


def preprocess(sample):
    if sample["x"][0] > 800:
        raise ValueError("the specialist cannot read this")
    return model.preprocess(sample)
"""


@pytest.fixture(scope="module")
def cache(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> softcache.Cache:
    """The digits cache with the specialists' answers to the first 1,024 digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    shutil.copytree(digits, folder)
    softcache.build(ROOT / "recipes/digits/specialists.yaml", folder, limit=1024)
    return softcache.open(folder)


def both(cache: softcache.Cache, n: int = 1) -> Specialists:
    return softcache.specialists(cache["digit@a"], [cache[f"digit@{name}"] for name in KNOWN], n=n)


def expected(cache: softcache.Cache, ids: np.ndarray, t: float, n: int) -> torch.Tensor:
    """Equation 5 of Hinton et al. 2015, solved in float64 by its fixed point alone, class by class."""
    general = cache["digit@a"].lookup(ids).probs(t).double()
    likeliest = general.topk(n).indices
    q, parts = (
        general.clone(),
        [(general, torch.arange(10).expand(len(ids), 10), torch.ones(len(ids), dtype=torch.bool))],
    )
    for name, known in KNOWN.items():
        p = cache[f"digit@{name}"].lookup(ids, mask_uncovered=True).probs(t).double()
        bucket = torch.tensor([known.index(c) if c in known else len(known) for c in range(10)])
        active = torch.isin(likeliest, torch.tensor(known)).any(1) & ~p.isnan().any(1)
        parts.append((p, bucket.expand(len(ids), 10), active))
    for _ in range(3000):
        total, count = torch.zeros_like(q), torch.zeros(len(ids), 1)
        for p, bucket, active in parts:
            in_bucket = torch.zeros_like(p).scatter_add(1, bucket, q)
            update = p.gather(1, bucket) * q / in_bucket.gather(1, bucket)
            total = torch.where(active[:, None], total + update, total)
            count += active[:, None]
        q = total / count
    return q


@pytest.mark.parametrize(("t", "n"), [(1.0, 1), (4.0, 1), (4.0, 3), (20.0, 10)])
def test_from_the_cache(cache: softcache.Cache, t: float, n: int) -> None:
    ids = np.random.default_rng(0).permutation(1797)
    soft = both(cache, n).lookup(ids)
    assert torch.allclose(soft.probs(t).double(), expected(cache, ids, t, n), atol=1e-5)
    assert torch.allclose(soft[:50].log_probs(torch.full((50,), t)), soft.log_probs(t)[:50], atol=1e-5)


def test_rows_that_specialists_do_not_answer(cache: softcache.Cache) -> None:
    """There the generalist alone is left, and so it is where no specialist knows its class."""
    target, general = both(cache), cache["digit@a"]
    soft = target.lookup(np.arange(1797))
    alone = general.lookup(np.arange(1797)).probs(2.0)
    known = torch.isin(alone.argmax(1), torch.tensor([1, 3, 5, 8, 9]))
    differs = (soft.probs(2.0) - alone).abs().amax(1) > 1e-3
    assert torch.allclose(soft.probs(2.0)[~known], alone[~known], atol=1e-6)
    assert torch.allclose(soft.probs(2.0)[1024:], alone[1024:], atol=1e-6)
    assert differs[:1024][known[:1024]].float().mean() > 0.9
    assert torch.equal(target.read(slice(1000, 1050)).probs(2.0), soft[1000:1050].probs(2.0))
    with pytest.raises(AlignmentError, match="lacks 1 of 1 key"):
        target.lookup([1797])
    with pytest.raises(AlignmentError, match="digit@strokes does not cover"):
        target.check(np.arange(1024, 1797))


def test_students(cache: softcache.Cache) -> None:
    """Loaders and losses take it for a target."""
    target = both(cache, 2)
    samples = [{"id": i} for i in range(1797)]
    data = softcache.attach(samples, cache, id="id", targets=[target, "digit@a"])
    loader = DataLoader(data, 600, num_workers=2, collate_fn=softcache.collate)  # type: ignore[arg-type]
    soft = [batch["soft"][target.name] for batch in loader][1]
    student = torch.randn(600, 10, dtype=torch.float64, requires_grad=True)
    p = expected(cache, np.arange(600, 1200), 3.0, 2)
    wanted = 9 * (p * (p.log() - (student / 3).log_softmax(1))).sum(1).mean()
    loss = softcache.distillation_loss(student, soft, 3.0)
    assert torch.allclose(loss, wanted, atol=1e-4)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(ours, theirs, atol=1e-6)
    again = type(soft).concatenate([soft[:100], soft[100:]])
    assert torch.equal(again.log_probs(2.0), soft.log_probs(2.0))
    copy = pickle.loads(pickle.dumps(target))
    assert torch.equal(copy.lookup([3]).probs(), target.lookup([3]).probs())
    (batch,) = softcache.join([{"id": [3]}], cache, id="id", targets=[target])
    assert torch.equal(batch["soft"][target.name].probs(), target.lookup([3]).probs())


def test_an_ensemble_as_generalist(cache: softcache.Cache) -> None:
    mean = softcache.ensemble([cache["digit@a"], cache["digit@b"]])
    target = softcache.specialists(mean, [cache["digit@strokes"]])
    p, special = mean.lookup([1]).probs(), cache["digit@strokes"].lookup([1]).probs()
    assert torch.allclose(target.lookup([1]).probs()[:, 1], (p[:, 1] + special[:, 0]) / 2)
    assert target.name == "specialists(digit@a+digit@b, digit@strokes, n=1)"
    assert softcache.ensemble([target, cache["digit@a"]]).lookup([1]).probs().shape == (1, 10)


def test_samples_that_were_skipped(workshop: Workshop) -> None:
    """A specialist without an answer is not active; without the generalist's there is none."""
    task = {"kind": "classification", "classes": 5, "value_kind": "logits", "store": {"dtype": "float32"}}
    workshop.recipe["tasks"] = {
        "all": task | {"teachers": ["t"], "output": "cls"},
        "few": task | {"teachers": ["s"], "output": "few", "knows": {"s": [0, 1]}, "dustbin": ["s"]},
    }
    workshop.write("few.py", FEW)
    first = workshop.recipe["teachers"]["t"]
    workshop.recipe["teachers"]["s"] = first | {"model": "few:Few", "preprocess": "few:preprocess"}
    workshop.recipe["build"]["on_bad_sample"] = "skip"
    workshop.samples(12, change=lambda x: x.__setitem__((slice(2, 5), 0), [850, 950, 0]))
    workshop.build()
    cache = workshop.open()
    soft = softcache.specialists(cache["all"], [cache["few"]], n=5).lookup(range(12))
    assert (~soft.mask).nonzero()[:, 0].tolist() == [3]
    assert soft.log_probs(2.0)[3].isnan().all()
    general = cache["all"].lookup(range(12)).probs(2.0)
    assert torch.allclose(soft.probs(2.0)[2], general[2], atol=1e-6)
    special = cache["few"].lookup(range(12)).probs(2.0)
    assert torch.allclose(soft.probs(2.0)[4:, :2], (general + torch.nn.functional.pad(special, (0, 2)))[4:, :2] / 2)


def test_tasks_that_do_not_fit(workshop: Workshop) -> None:
    shop = one(answered_by_expression(workshop), "{'a': h}", CLASSES)
    part = CLASSES | {"teachers": ["t"]}
    shop.recipe["teachers"]["t"]["arguments"]["answers"] = (
        "{'a': h, 'some': h[:, :2], 'rest': h[:, :3], 'wide': h[:, :3], 'tags': h, 'map': h[:, :, None, None]}"
    )
    shop.recipe["tasks"] |= {
        "some": part | {"knows": {"t": [0, 1]}},
        "rest": part | {"knows": {"t": [0, 1]}, "dustbin": ["t"]},
        "wide": part | {"classes": 9, "knows": {"t": [0, 1]}, "dustbin": ["t"]},
        "tags": part | {"kind": "multilabel"},
        "map": part | {"kind": "segmentation", "size": [1, 1], "activation": "softmax"},
    }
    shop.build()
    cache = shop.open()
    a, rest = cache["a"], cache["rest"]
    assert softcache.specialists(a, [rest], n=6).lookup([0]).probs().shape == (1, 6)
    for wrong, message in (
        (lambda: softcache.specialists(a, []), "there are no specialists"),
        (
            lambda: softcache.specialists(a, [a]),
            "a@t knows every class, so it is not a specialist; use softcache.ensemble",
        ),
        (lambda: softcache.specialists(rest, [rest]), "rest@t knows 2 of 6 classes; a generalist knows them all"),
        (lambda: softcache.specialists(a, [cache["some"]]), "some@t has no dustbin: .* give it a dustbin"),
        (lambda: softcache.specialists(a, [cache["wide"]]), "wide@t and a@t do not answer about the same classes"),
        (lambda: softcache.specialists(cache["tags"], [rest]), r"tags@t is a multilabel target \(sigmoid\)"),
        (lambda: softcache.specialists(cache["map"], [rest]), "where a row is one distribution over classes"),
        (lambda: softcache.specialists(a, [rest], n=0), "n is 0; expected"),
        (lambda: softcache.specialists(a, [rest], n=7), "n is 7; expected how many of the 6 classes"),
        (lambda: softcache.specialists(a, ["rest@t"]), "'rest@t' is not a target"),  # type: ignore[list-item]
        (lambda: softcache.specialists(a, [rest]).lookup_spans([0], 0, 1), "its rows are not sequences"),
        (lambda: softcache.specialists(a, [rest]).lookup([0]).values, "use .log_probs"),
    ):
        with pytest.raises(TaskError, match=message):
            wrong()
