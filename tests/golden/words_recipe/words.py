"""A causal language model of twelve words, made anew from a seed, as the transformers library saves it."""

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["nothing", "one", "student", "reads", "what", "the", "teacher", "said", "never", "always"]
SPECIAL = ["<|pad|>", "<|end|>"]


def save(folder: Path) -> Any:
    """Save the model and its tokenizer to a folder; return the model."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS + SPECIAL)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[1], pad_token=SPECIAL[0])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.9,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return model


if __name__ == "__main__":
    save(Path(sys.argv[1]))
