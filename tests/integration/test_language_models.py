"""Causal language models: from text to soft targets that are joined by token, whole, in spans, packed."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tokenizers
import torch
import yaml
from closeness import close
from language import TEXTS, Language, make_tokenizer
from safetensors.torch import load_file, save_file

import softcache
from softcache.cli.main import main
from softcache.errors import AlignmentError, IncompatibleTarget, RecipeError, TaskError, TransferSetError
from softcache.teachers.causal_lm import CausalLMAdapter, CausalLMTeacher
from softcache.transfer.vocabulary import vocabulary, vocabulary_hash

T = 3.0


@pytest.fixture
def language(tmp_path: Path) -> Language:
    return Language(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Language:
    language = Language(tmp_path_factory.mktemp("language"))
    language.build()
    return language


def test_every_next_token(built: Language) -> None:
    """L tokens have L - 1 answers, equal to the model's own at every temperature; the compressed ones nearly."""
    cache, wanted = softcache.open(built.cache), [2, 0, 5, 2]
    full, some = cache["full"].lookup(wanted), cache["lm"].lookup(wanted)
    assert isinstance(full, softcache.SoftSequences)
    assert full.lengths.tolist() == [len(built.ids[i]) - 1 for i in wanted] == full.mask.sum(1).tolist()
    for row, sample in enumerate(wanted):
        live = built.logits(sample)
        count = len(live)
        close(full.values[row, :count], live)
        assert full.values[row, count:].isnan().all()
        for temperature in (0.5, T, 20.0):
            log_p = (live.double() / temperature).log_softmax(1)
            assert torch.allclose(full.log_probs(temperature)[row, :count].double(), log_p, atol=1e-5)
            sparse = some.sparse_log_probs(temperature)
            stored = log_p.gather(1, sparse.ids[row, :count]).exp()
            assert torch.allclose(sparse.log_probs[row, :count].double().exp(), stored, atol=1e-3)
            tail = log_p.exp().scatter(1, sparse.ids[row, :count], 0.0).sum(1)
            assert torch.allclose(sparse.log_tail[row, :count].double().exp(), tail, atol=1e-3)
        assert full.next_tokens()[row, :count].tolist() == built.ids[sample][1:]
        assert (full.next_tokens()[row, count:] == -100).all()
    assert softcache.verify(built.cache).ok


def test_batches_do_not_matter(built: Language) -> None:
    """One sample at a time or all together, and however many tokens go through the model at once."""
    settings = CausalLMAdapter(model="m", text="text")
    answers = []
    for at_once, batch_size in ((1, 1), (10_000, 6), (64, 6)):
        teacher = CausalLMTeacher(built.model, built.tokenizer, settings.model_copy(update={"tokens_at_once": at_once}))
        rows: list[torch.Tensor] = []
        for begin in range(0, 6, batch_size):
            batch = teacher.collate([{"text": text} for text in TEXTS[begin : begin + batch_size]])
            found = teacher.predict(batch)["logits"]
            values = torch.empty(sum(found.lengths), len(built.tokenizer))
            for places, chunk in found.chunks:
                values[torch.as_tensor(places)] = chunk
            rows.append(values)
        answers.append(torch.cat(rows))
    assert torch.allclose(answers[0], answers[1], atol=1e-4)
    assert torch.allclose(answers[0], answers[2], atol=1e-4)


def test_spans(built: Language) -> None:
    """Any cut of a sample gives the answers of its tokens; only the last token of all has none."""
    target = softcache.open(built.cache)["full"]
    tokens = len(built.ids[0])
    starts, lengths = [0, 5, 5, tokens - 4, 0], [5, 8, 0, 4, tokens]
    soft = target.lookup_spans([0, 0, 0, 0, 0], starts, lengths)
    assert soft.lengths.tolist() == lengths
    live = built.logits(0)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        there = min(length, tokens - 1 - start)
        assert soft.mask[row].tolist() == [t < there for t in range(tokens)]
        close(soft.values[row, :there], live[start : start + there])
        assert soft.next_tokens()[row, :there].tolist() == built.ids[0][start + 1 : start + there + 1]
    with pytest.raises(AlignmentError, match=r"samples 0 beyond their end: 3 from 41 of 43"):
        target.lookup_spans([0], [41], [3])
    with pytest.raises(AlignmentError, match="lengths must be integers"):
        target.lookup_spans([0], [0], [-1])


def test_packed_chunked_padded(built: Language) -> None:
    """The loss of a student is the same however its samples are cut and packed."""
    target = softcache.open(built.cache)["lm"]
    generator = torch.Generator().manual_seed(0)
    logits = {i: torch.randn(len(ids), len(built.tokenizer), generator=generator) for i, ids in enumerate(built.ids)}
    wanted = [0, 2, 4]
    longest = max(len(built.ids[i]) for i in wanted)
    padded = torch.stack([torch.nn.functional.pad(logits[i], (0, 0, 0, longest - len(logits[i]))) for i in wanted])
    whole = softcache.distillation_loss(padded, target.lookup(wanted), T, reduction="sum")
    lengths = [len(built.ids[i]) for i in wanted]
    packed = softcache.distillation_loss(
        torch.cat([logits[i] for i in wanted]), target.lookup_spans(wanted, 0, lengths), T, reduction="sum"
    )
    assert torch.allclose(whole, packed, rtol=1e-5)
    chunks = [(i, start) for i in wanted for start in range(0, len(built.ids[i]), 7)]
    sizes = [min(7, len(built.ids[i]) - start) for i, start in chunks]
    soft = target.lookup_spans([i for i, _ in chunks], [s for _, s in chunks], sizes)
    cut = torch.cat([logits[i][start : start + 7] for i, start in chunks])
    assert torch.allclose(whole, softcache.distillation_loss(cut, soft, T, reduction="sum"), rtol=1e-5)
    mean = softcache.distillation_loss(padded, target.lookup(wanted), T)
    assert torch.allclose(mean, whole / (sum(lengths) - len(wanted)), rtol=1e-5), (
        "of all tokens, not of the rows' means"
    )


def test_tokens_are_proved(built: Language) -> None:
    target = softcache.open(built.cache)["lm"]
    padded = np.full((2, 60), 1)
    for row, sample in enumerate((0, 1)):
        padded[row, : len(built.ids[sample])] = built.ids[sample]
    target.lookup([0, 1], input_ids=padded)
    loader = [{"id": torch.tensor([0, 1]), "input_ids": torch.tensor(padded)}]
    cache = softcache.open(built.cache)
    assert len(next(iter(softcache.join(loader, cache, id="id", input_ids="input_ids")))["soft"]) == 2
    padded[1, 3] += 1
    for refused in (
        lambda: target.lookup([0, 1], input_ids=torch.tensor(padded)),
        lambda: target.lookup_spans([0, 1], 2, 4, input_ids=padded[:, 2:6].tolist()),
        lambda: list(softcache.join([{"id": [0, 1], "input_ids": padded}], cache, id="id", input_ids="input_ids")),
    ):
        with pytest.raises(AlignmentError, match="not the token ids that the teacher saw: 1 sample, 1;"):
            refused()
    with pytest.raises(AlignmentError, match=r"input_ids are \[2, 5\]"):
        target.lookup([0, 1], input_ids=padded[:, :5])


def test_tokenizers_are_their_mapping(built: Language) -> None:
    """The same mapping under another name is the same tokenizer; another one is refused with the difference."""
    target = softcache.open(built.cache)["lm"]
    same = make_tokenizer()
    same.name_or_path = "another name"
    target.check_tokenizer(same)
    other = make_tokenizer(TEXTS[:3])
    with pytest.raises(
        AlignmentError, match=r"ids differ \(\d+: '.*' -> '.*', \.\.\.\); 300 ids in the teacher's, 300 in"
    ):
        target.check_tokenizer(other)
    same.add_tokens(["<|new|>"])
    with pytest.raises(AlignmentError, match=r"1 ids differ \(300: absent -> '<\|new\|>' \(added\)\)"):
        target.check_tokenizer(same)
    assert target.provenance["versions"]["tokenizers"] == tokenizers.__version__
    assert target.task.tokenizer == vocabulary_hash(vocabulary(built.tokenizer))
    with pytest.raises(TaskError, match="does not give a mapping"):
        target.check_tokenizer("gpt2")


def test_padded_vocabularies(built: Language) -> None:
    """The teacher's padding is no class; a student's own padding gets no gradient."""
    target = softcache.open(built.cache)["lm"]
    assert built.model.config.vocab_size == target.task.shape[0] + 12
    soft = target.lookup([0, 1])
    logits = torch.randn(2, soft.mask.shape[1], target.task.shape[0] + 20, requires_grad=True)
    loss = softcache.distillation_loss(logits, soft, T)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 300:] == 0).all()
    narrow = logits.detach()[..., :300].clone().requires_grad_()
    softcache.distillation_loss(narrow, soft, T).backward()
    assert narrow.grad is not None
    assert torch.equal(narrow.grad, logits.grad[..., :300])
    with pytest.raises(TaskError, match="student logits are"):
        softcache.distillation_loss(logits[..., :299], soft, T)


def test_loss_masks(language: Language) -> None:
    """Positions whose next token does not count are left out; the others keep their place."""
    masks = [[t >= len(ids) // 2 for t in range(len(ids))] for ids in language.ids]
    masks[1] = [False] * len(masks[1])
    language.rows(
        [
            {"id": f"s{i}", "input_ids": ids, "mask": list(map(int, m))}
            for i, (ids, m) in enumerate(zip(language.ids, masks, strict=True))
        ]
    )
    del language.recipe["teachers"]["t"]["text"]
    language.recipe["teachers"]["t"] |= {"input_ids": "input_ids", "loss_mask": "mask"}
    target = language.build()["full"]
    assert target.stats["positions"] == sum(sum(m[1:]) for m in masks)
    soft = target.lookup(["s0", "s1", "s2"])
    assert soft.lengths.tolist() == [len(ids) - 1 for ids in language.ids[:3]]
    for row in range(3):
        there = [t for t in range(len(language.ids[row]) - 1) if masks[row][t + 1]]
        assert soft.mask[row].nonzero()[:, 0].tolist() == there
        close(soft.values[row, there], language.logits(row)[there])
    spans = target.lookup_spans(["s0", "s0"], [3, 20], [30, 10])
    for row, (start, length) in enumerate(((3, 30), (20, 10))):
        there = [t for t in range(length) if masks[0][start + t + 1]]
        assert spans.mask[row].nonzero()[:, 0].tolist() == there
        close(spans.values[row, there], language.logits(0)[[start + t for t in there]])
    assert softcache.verify(language.cache).ok


def test_other_readers(built: Language) -> None:
    """Plain `datasets` sees tokens, positions and the stored classes of each."""
    found = datasets.load_dataset(str(built.cache), "lm@t", split="train", cache_dir=str(built.folder / "hf"))
    for row in found:
        sample = row["sample_id"]
        assert row["input_ids"] == built.ids[sample]
        assert row["positions"] == list(range(len(built.ids[sample]) - 1))
        live = built.logits(sample)
        assert row["top1"] == live.argmax(1).tolist()
        assert row["ids"] == live.topk(8).indices.tolist()
        assert np.allclose(row["top1_prob"], live.softmax(1).amax(1), atol=1e-3)
    assert softcache.open(built.cache)["lm"].to_hf()[:2]["input_ids"] == built.ids[:2]


def test_what_makes_another_teacher(language: Language) -> None:
    language.build()
    language.recipe["teachers"]["t"] |= {"tokens_at_once": 7}
    language.build()
    for change in ("max_length=9", "add_special_tokens=false", "dtype=bfloat16"):
        with pytest.raises(IncompatibleTarget, match=change.partition("=")[0]):
            language.build(f"teachers.t.{change}")
    weights = language.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(IncompatibleTarget, match="weights"):
        language.build()


def test_bad_samples(language: Language) -> None:
    rows: list[dict[str, Any]] = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    rows += [{"id": 6, "text": ""}, {"id": 7, "text": "long " * 200}, {"id": 8, "text": "x"}]
    language.rows(rows)
    with pytest.raises(TransferSetError, match=r"1 sample \(6\).*at least one.*1 sample \(7\).*the model takes 128"):
        language.build("build.batch_size=9", "build.fragment_rows=9")
    target = language.build("build.on_bad_sample=skip")["full"]
    committed = softcache.open(language.cache).committed("full@t")
    assert [sample for sample, _, _ in committed.skipped] == [6, 7]
    soft = target.lookup([6, 0, 8, 7])
    assert soft.mask.any(1).tolist() == [False, True, False, False]
    assert soft.lengths.tolist() == [0, len(language.ids[0]) - 1, 0, 0], "a single token has no next one"
    logits = torch.randn(4, soft.mask.shape[1], 300, requires_grad=True)
    loss = softcache.distillation_loss(logits, soft, T)
    alone = softcache.distillation_loss(logits[1:2], target.lookup([0]), T)
    assert torch.allclose(loss, alone)
    assert target.lookup_spans([6], [3], [4]).mask.sum() == 0
    assert softcache.verify(language.cache).ok


def test_recipes_that_are_wrong(language: Language) -> None:
    with pytest.raises(RecipeError, match=r"tasks.lm: classes is 299; teacher t answers 300"):
        language.build("tasks.lm.classes=299")
    with pytest.raises(RecipeError, match="only with format: arrow"):
        language.build("tasks.lm.store.format=zarr")
    with pytest.raises(RecipeError, match="give text or input_ids"):
        language.build("~teachers.t.text")
    with pytest.raises(RecipeError, match=r"teachers\.t\.texts: .*did you mean 'text'"):
        language.build("teachers.t.texts=text")
    with pytest.raises(RecipeError, match="no package of that name"):
        language.build("teachers.t.model=package:nothing_of_that_name")
    with pytest.raises(RecipeError, match=r"cannot be loaded|no weights|Hub"):
        language.build("teachers.t.model=absent-folder")


def test_plan_tries_codecs(language: Language, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a build: what each codec would take for all positions, and how far it would be off."""
    language.recipe["tasks"]["lm"]["store"] |= {"basis": 4}
    path = language.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(language.recipe))
    with pytest.raises(SystemExit):
        main(["plan", str(path), "-o", str(language.cache), "--json"])
    planned = json.loads(capsys.readouterr().out)
    assert not language.cache.exists()
    positions = sum(len(ids) - 1 for ids in language.ids)
    targets = {target["name"]: target for target in planned["targets"]}
    for name in ("lm@t", "full@t"):
        tried = targets[name]["codecs"]
        assert [trial["chosen"] for trial in tried] == [True] + [False] * (len(tried) - 1)
        assert {trial["codec"]["name"] for trial in tried} >= {"dense", "quantized", "hidden"}
        for trial in tried:
            assert trial["bytes"] == positions * trial["item_bytes"]
            assert list(trial["kl"]) == list(trial["tv"]) == ["1", "2", "4", "8"]
    near = next(trial for trial in targets["lm@t"]["codecs"] if trial["codec"]["name"] == "hidden")
    assert near["kl"]["2"] < targets["lm@t"]["codecs"][0]["kl"]["2"]
    language.build()
    stored = sum(path.stat().st_size for path in (language.cache / "data" / "lm@t").rglob("*.arrow"))
    assert targets["lm@t"]["bytes"] == pytest.approx(stored, rel=0.5)
    with pytest.raises(SystemExit):
        main(["plan", str(path), "-o", str(language.cache / "other")])
    assert "*  topk k=8 nodes=16 basis=4 companions=True" in capsys.readouterr().out
