"""Ensembles of targets: of confident teachers, of different codecs, weighted, and of sequences."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Workshop
from expressions import CLASSES, DETECTION, answered_by_expression, one
from language import TEXTS, Language, make_tokenizer, save

import softcache
from softcache.errors import AlignmentError, TaskError

T = 3.0
LENGTHS = [3, 0, 4, 1, 2]


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    return answered_by_expression(workshop)


def test_ensembles_of_confident_teachers(shop: Workshop) -> None:
    one(shop, "{'a': h * 0 + 17, 'b': h * 0 + 18}", {"kind": "multilabel", "classes": 6, "value_kind": "logits"})
    shop.recipe["tasks"]["b"] = shop.recipe["tasks"]["a"]
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0])
    loss = softcache.distillation_loss(torch.zeros(1, 6), soft, divergence="reverse_kl")
    lacking = np.log((1 / (1 + np.exp(17.0)) + 1 / (1 + np.exp(18.0))) / 2)
    assert float(loss) == pytest.approx(6 * (0.5 * np.log(0.5) + 0.5 * (np.log(0.5) - lacking)), rel=1e-4)


def test_members_in_different_codecs(shop: Workshop) -> None:
    one(shop, "{'a': h, 'b': h}", CLASSES)
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"], "store": {"codec": "topk", "k": 2}}
    shop.build()
    cache = shop.open()
    soft = softcache.ensemble([cache["a"], cache["b"]]).lookup([0, 1])
    assert soft.log_probs(2.0).shape == (2, 6)
    with pytest.raises(TaskError, match="no common shape"):
        soft.values  # noqa: B018


def test_weights_and_means(digits: Path) -> None:
    """They are divided by their sum; a target of weight 0 is left out, and names tell ensembles apart."""
    cache = softcache.open(digits)
    a, b, c = (cache[f"digit@{name}"] for name in "abc")
    p, q = (target.lookup([3, 1, 2]).probs(T).double() for target in (a, b))
    weighted = softcache.ensemble([a, c, b], weights=[6, 0, 2])
    assert torch.allclose(weighted.lookup([3, 1, 2]).probs(T).double(), 0.75 * p + 0.25 * q, atol=1e-6)
    product = softcache.ensemble([a, b], mean="geometric", weights=torch.tensor([3.0, 1.0]))  # type: ignore[arg-type]
    expected = p**0.75 * q**0.25
    found = product.read(np.array([3, 1, 2])).probs(T).double()
    assert torch.allclose(found, expected / expected.sum(1, keepdim=True), atol=1e-6)
    plain = softcache.ensemble([a, b])
    both = softcache.ensemble([weighted, product])
    assert torch.allclose(
        both.lookup([3]).probs(T).double(), (weighted.lookup([3]).probs(T) + found[:1]) / 2, atol=1e-6
    )
    assert weighted.name == "0.75*digit@a+0.25*digit@b"
    assert product.name == "geometric(0.75*digit@a+0.25*digit@b)"
    assert len({e.name for e in (plain, weighted, product, both, softcache.ensemble([a, b], mean="geometric"))}) == 5
    again = pickle.loads(pickle.dumps(product))
    assert torch.equal(again.lookup([3]).probs(T), product.lookup([3]).probs(T))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": "harmonic"}, "mean is 'harmonic'; expected one of arithmetic, geometric"),
        ({"weights": [1.0]}, "1 weights for 2 targets"),
        ({"weights": [1.0, -1.0]}, "the weight of digit@b is -1.0; expected a finite number of at least 0"),
        ({"weights": [1.0, float("nan")]}, "the weight of digit@b is nan"),
        ({"weights": [0, 0]}, r"the weights add up to 0\.0; expected a finite sum above 0"),
        ({"weights": [1e308, 1e308]}, "the weights add up to inf"),
        ({"weights": "ab"}, "weights are 'ab'; expected one number for each target"),
        ({"weights": 2.0}, r"weights are 2\.0; expected one number for each target"),
    ],
)
def test_wrong_means_and_weights(digits: Path, options: dict[str, Any], message: str) -> None:
    cache = softcache.open(digits)
    with pytest.raises(TaskError, match=message):
        softcache.ensemble([cache["digit@a"], cache["digit@b"]], **options)


def test_what_has_no_mean(shop: Workshop) -> None:
    boxes = "Sequences.from_lists([h[i:i+1] for i in range(len(h))], boxes=[torch.ones(1, 4)] * len(h))"
    one(shop, f"{{'a': {boxes}, 'b': h, 'c': h[:, :3], 'd': h[:, :3], 'e': h[:, :3]}}", DETECTION)
    shop.recipe["tasks"]["b"] = CLASSES | {"teachers": ["t"]}
    shop.recipe["tasks"]["c"] = CLASSES | {"teachers": ["t"], "classes": 3}
    part = CLASSES | {"teachers": ["t"], "knows": {"t": [0, 1]}, "dustbin": ["t"]}
    shop.recipe["tasks"] |= {"d": part, "e": part | {"classes": 7}}
    shop.build()
    cache = shop.open()
    with pytest.raises(TaskError, match="a@t is a detection target: each teacher finds boxes of its own"):
        softcache.ensemble([cache["a"], cache["a"]])
    for first, second in ("bc", "cd", "de"):
        with pytest.raises(TaskError, match=f"{second}@t and {first}@t do not answer the same task"):
            softcache.ensemble([cache[first], cache[second]])
    with pytest.raises(TaskError, match="at least one target"):
        softcache.ensemble([])


def frames(shop: Workshop, *, second: str = "n") -> softcache.Cache:
    """Targets a and b: as many frames as LENGTHS says for a sample, or for b an expression of that, n."""
    lengths = "enumerate(x[:, 0].long().tolist())"
    text = "Sequences.from_lists([h[i:i+1] * {f} * torch.arange(1, {n} + 1)[:, None] for i, n in LENGTHS])"
    text = text.replace("LENGTHS", lengths)
    one(shop, f"{{'a': {text.format(f=1, n='n')}, 'b': {text.format(f=-1, n=second)}}}", CLASSES | {"kind": "sequence"})
    shop.recipe["tasks"]["b"] = shop.recipe["tasks"]["a"] | {"store": {"codec": "topk", "k": 6}}
    shop.samples(5, ids=[f"clip-{i}" for i in range(5)], change=lambda x: x.__setitem__((slice(None), 0), LENGTHS))
    shop.build()
    return shop.open()


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_sequences_position_by_position(shop: Workshop, mean: str) -> None:
    cache = frames(shop)
    ids = [f"clip-{i}" for i in (2, 1, 0)]
    members = [cache["a"].lookup(ids), cache["b"].lookup(ids)]
    soft = softcache.ensemble([cache["a"], cache["b"]], mean=mean).lookup(ids)
    assert isinstance(soft, softcache.SoftSequences)
    assert soft.lengths.tolist() == soft.mask.sum(1).tolist() == [4, 0, 3]
    t = torch.tensor([1.0, 2.0, 3.0])
    p, q = (member.probs(t).double() for member in members)
    expected = (p + q) / 2 if mean == "arithmetic" else (p * q).sqrt() / (p * q).sqrt().sum(-1, keepdim=True)
    assert torch.allclose(soft.probs(t).double()[soft.mask], expected[soft.mask], atol=1e-5)
    assert soft.log_probs(t)[~soft.mask].isnan().all()
    student = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    loss = softcache.distillation_loss(student, soft, t, lengths=soft.lengths)
    at, teacher = t[soft.row].double(), expected[soft.mask]
    log_q = (student[:, :4][soft.mask] / at[:, None]).log_softmax(-1)
    wanted = ((teacher * (teacher.log() - log_q)).sum(-1) * at**2).mean()
    assert torch.allclose(loss, wanted, rtol=1e-4)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(ours, theirs, atol=1e-5)
    some = softcache.SoftSequences.concatenate([soft[2], soft[:2]])
    assert torch.equal(some.probs(T)[some.mask], soft[np.array([2, 0, 1])].probs(T)[some.mask])
    with pytest.raises(TaskError, match="has a value for every class"):
        soft.sparse_log_probs(T)
    alike = softcache.ensemble([cache["a"], cache["a"]]).lookup(ids)
    assert torch.equal(alike.values[alike.mask][:, 1], members[0].values[alike.mask])


def test_sequences_of_other_lengths(shop: Workshop) -> None:
    cache = frames(shop, second="max(n - 1, 0) if n > 3 else n")
    both = softcache.ensemble([cache["a"], cache["b"]])
    assert both.lookup(["clip-0", "clip-1"]).lengths.tolist() == [3, 0]
    with pytest.raises(AlignmentError, match="other lengths for the same samples: 1 sample, 'clip-2'"):
        both.lookup(["clip-0", "clip-2"])


def test_sequences_that_a_member_does_not_have(shop: Workshop) -> None:
    """A sample without an answer of one member keeps its length, and has no position; in a loop it is masked."""
    cache = frames(shop)
    shop.samples(
        7, ids=[f"clip-{i}" for i in range(7)], change=lambda x: x.__setitem__((slice(None), 0), [*LENGTHS, 2, 3])
    )
    shop.build("~tasks.b")
    cache = shop.open()
    both = softcache.ensemble([cache["a"], cache["b"]])
    (batch,) = softcache.join([{"id": ["clip-5", "clip-0"]}], cache, id="id", targets=[both])
    soft = batch["soft"][both.name]
    assert (soft.lengths.tolist(), soft.mask.sum(1).tolist(), soft.answered.tolist()) == ([2, 3], [0, 3], [False, True])
    student = torch.randn(2, 3, 6)
    loss = softcache.distillation_loss(student, soft, T)
    assert torch.allclose(loss, softcache.distillation_loss(student[1:], both.lookup(["clip-0"]), T))
    assert torch.allclose(loss, softcache.distillation_loss(student[soft.lengths[:, None] > torch.arange(3)], soft, T))
    assert sorted(both.covered_keys().ids.tolist()) == [f"clip-{i}" for i in range(5)]
    with pytest.raises(AlignmentError, match="does not cover"):
        both.lookup(["clip-5"])
    with pytest.raises(AlignmentError, match="does not cover"):
        softcache.attach([{"id": "clip-6"}], cache, id="id", targets=[both])


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    """Two language models of one tokenizer, the second with answers for only some of the positions of each text."""
    language = Language(tmp_path_factory.mktemp("language"))
    save(language.folder / "second", seed=1)
    masks = [[int(t % 3 > 0) for t in range(len(ids))] for ids in language.ids]
    masks[2] = [0] * len(masks[2])
    rows = enumerate(zip(language.ids, masks, strict=True))
    language.rows([{"id": i, "input_ids": ids, "mask": mask} for i, (ids, mask) in rows])
    first = language.recipe["teachers"]["t"]
    del first["text"]
    first["input_ids"] = "input_ids"
    language.recipe["teachers"]["s"] = first | {"model": "second", "loss_mask": "mask"}
    task = language.recipe["tasks"]["full"]
    language.recipe["tasks"] = {"lm": task | {"teachers": ["t", "s"]}}
    language.recipe["tasks"]["topk"] = task | {"store": {"codec": "topk", "k": 300}, "teachers": ["s"]}
    language.build()
    return language


def test_language_models(language: Language) -> None:
    """Where both have an answer, it is the mean of theirs; tokens are compared as with one teacher."""
    cache = softcache.open(language.cache)
    both = softcache.ensemble([cache["lm@t"], cache["lm@s"]], weights=[1, 3])
    wanted = [4, 2, 0]
    soft = both.lookup(wanted, input_ids=[language.ids[i] for i in wanted])
    parts = [cache[f"lm@{name}"].lookup(wanted) for name in "ts"]
    assert torch.equal(soft.mask, parts[1].mask)
    assert 0 < int(soft.mask.sum()) < int(parts[0].mask.sum())
    assert torch.equal(soft.tokens, parts[0].tokens)
    assert torch.equal(soft.lengths, parts[0].lengths)
    p, q = (part.probs(T)[soft.mask].double() for part in parts)
    assert torch.allclose(soft.probs(T)[soft.mask].double(), 0.25 * p + 0.75 * q, atol=1e-6)
    logits = torch.randn(3, soft.mask.shape[1], 310, requires_grad=True)
    labels = soft.next_tokens()
    loss = softcache.distillation_loss(logits, soft, T, labels, 0.5)
    expected = 0.25 * p + 0.75 * q
    log_q = (logits[soft.mask][:, :300].double() / T).log_softmax(1)
    hard = torch.nn.functional.cross_entropy(logits[soft.mask][:, :300].double(), labels[soft.mask])
    wanted_loss = 0.5 * T**2 * (expected * (expected.log() - log_q)).sum(1).mean() + 0.5 * hard
    assert torch.allclose(loss.double(), wanted_loss, rtol=1e-4)
    changed = [list(language.ids[i]) for i in wanted]
    changed[2][3] += 1
    with pytest.raises(AlignmentError, match="not the token ids that the teacher saw: 1 sample, 0;"):
        both.lookup(wanted, input_ids=changed)
    compressed = softcache.ensemble([cache["lm@t"], cache["topk@s"]], weights=[1, 3]).lookup(wanted)
    assert torch.allclose(compressed.probs(T)[soft.mask], soft.probs(T)[soft.mask], atol=1e-3)


def test_spans_of_language_models(language: Language) -> None:
    """Cut and packed samples have the losses of whole ones."""
    cache = softcache.open(language.cache)
    both = softcache.ensemble([cache["lm@t"], cache["lm@s"]])
    generator = torch.Generator().manual_seed(0)
    ids = language.ids
    logits = {i: torch.randn(len(ids[i]), 300, generator=generator) for i in (0, 4)}
    whole = [softcache.distillation_loss(logits[i][None], both.lookup([i]), T, reduction="sum") for i in (0, 4)]
    cuts = [(i, start) for i in (0, 4) for start in range(0, len(ids[i]), 7)]
    sizes = [min(7, len(ids[i]) - start) for i, start in cuts]
    tokens = [ids[i][start : start + 7] for i, start in cuts]
    soft = both.lookup_spans([i for i, _ in cuts], [start for _, start in cuts], sizes, input_ids=tokens)
    packed = torch.cat([logits[i][start : start + 7] for i, start in cuts])
    assert torch.allclose(softcache.distillation_loss(packed, soft, T, reduction="sum"), sum(whole), rtol=1e-5)
    with pytest.raises(AlignmentError, match="beyond their end"):
        both.lookup_spans([0], [41], [3])
    plain = softcache.ensemble([cache["topk@s"]])
    assert plain.lookup_spans([0], 0, 5).mask.shape == (1, 5)


def test_language_models_that_saw_other_tokens(language: Language, tmp_path: Path) -> None:
    """The samples' ids are the same, their tokens are not."""
    cache, other = softcache.open(language.cache), Language(tmp_path)
    rows: list[dict[str, Any]] = [{"id": i, "input_ids": list(ids)} for i, ids in enumerate(language.ids)]
    rows[1]["input_ids"][3] += 1
    rows[4]["input_ids"] = rows[4]["input_ids"][:-2]
    other.rows(rows)
    del other.recipe["teachers"]["t"]["text"]
    other.recipe["teachers"]["t"]["input_ids"] = "input_ids"
    other.recipe["tasks"] = {"lm": other.recipe["tasks"]["full"]}
    both = softcache.ensemble([cache["lm@t"], other.build()["lm@t"]])
    assert both.lookup([0, 2]).mask.any(1).all()
    with pytest.raises(AlignmentError, match="other tokens for the same samples: 1 sample, 1;"):
        both.lookup([0, 1])
    with pytest.raises(AlignmentError, match="other lengths for the same samples: 1 sample, 4;"):
        both.lookup([0, 4])
    with pytest.raises(AlignmentError, match="other tokens for the same samples: 1 sample, 1;"):
        both.lookup_spans([1], 2, 5)
    with pytest.raises(TaskError, match="a row is a sequence"):
        both.to_pandas()


def test_language_models_with_other_tokenizers(language: Language, tmp_path: Path) -> None:
    """As many tokens, which mean something else."""
    other = Language(tmp_path)
    make_tokenizer([text.upper() for text in TEXTS]).save_pretrained(tmp_path / "model")
    with pytest.raises(TaskError, match="full@t and lm@t do not answer the same task"):
        softcache.ensemble([softcache.open(language.cache)["lm@t"], other.build()["full@t"]])
