"""A small causal language model with a tokenizer of its own, saved as the transformers library does."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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


def make_model(classes: int, *, padded: int = 0, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=classes + padded,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, *, padded: int = 0, seed: int = 0) -> tuple[Any, Any]:
    """Save a model and its tokenizer to a folder; return both."""
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), padded=padded, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer
