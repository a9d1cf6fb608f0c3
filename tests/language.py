"""A small causal language model with a tokenizer of its own, saved as the transformers library does, and its cache."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import softcache

TEXTS = [
    "The teacher runs once, and many students learn from what it said.",
    "A temperature is applied when the values are read, never before.",
    "Short.",
    "Soft targets carry more than a label: they say how alike the classes are.",
    "One row, one sample; one position, one distribution.",
    "What is compressed is measured, and what is measured is written down.",
]
SPECIAL = ["<|end|>", "<|pad|>"]


def make_tokenizer(texts: list[str] = TEXTS, size: int = 300) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[1])


def make_model(classes: int, *, padded: int = 0, heads: int = 4, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=classes + padded,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, *, padded: int = 0, heads: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Save a model and its tokenizer to a folder; return both."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), padded=padded, heads=heads, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


class Language:
    """A folder with a language model, its texts, a recipe, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.model, self.tokenizer = save(folder / "model", padded=12)
        self.ids = [self.tokenizer(text)["input_ids"] for text in TEXTS]
        self.rows([{"id": i, "text": text} for i, text in enumerate(TEXTS)])
        task = {"kind": "causal_lm", "classes": len(self.tokenizer), "value_kind": "logits", "teachers": ["t"]}
        self.recipe: dict[str, Any] = {
            "transfer_set": {"source": {"type": "files", "paths": ["texts.jsonl"]}, "id": "id"},
            "teachers": {"t": {"adapter": "causal_lm", "model": "model", "text": "text", "tokens_at_once": 64}},
            "tasks": {
                "lm": task | {"store": {"codec": "topk", "k": 8}},
                "full": task | {"store": {"dtype": "float32"}},
            },
            "build": {"batch_size": 4, "fragment_rows": 4},
        }

    def rows(self, rows: list[dict[str, Any]]) -> None:
        (self.folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def build(self, *overrides: str) -> softcache.Cache:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe))
        softcache.build(path, self.cache, overrides)
        return softcache.open(self.cache)

    def logits(self, sample: int) -> torch.Tensor:
        """What the live model says of each next token, without the padding of its vocabulary."""
        with torch.inference_mode():
            found: torch.Tensor = self.model(torch.tensor([self.ids[sample]])).logits[0, :-1, : len(self.tokenizer)]
        return found
