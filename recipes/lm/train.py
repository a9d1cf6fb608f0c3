"""Train small language models from the cache: on text only, on renormalised top-k, on softcache's targets.

python recipes/lm/train.py runs/lm
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import softcache

STEPS, BATCH, RATE = 150, 4, 3e-3
Loss = Callable[[torch.Tensor, softcache.SoftSequences], torch.Tensor]


def student(classes: int, width: int, seed: int) -> LlamaForCausalLM:
    """Return a two-layer student with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=classes,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def text_alone(logits: torch.Tensor, soft: softcache.SoftSequences) -> torch.Tensor:
    """Return the usual loss of a language model: cross-entropy with the next token."""
    return softcache.distillation_loss(logits, soft, labels=soft.next_tokens(), alpha=0.0)


def renormalised(temperature: float) -> Loss:
    """Return the loss that is usual when only the top k are stored: they are scaled to sum to 1."""

    def loss(logits: torch.Tensor, soft: softcache.SoftSequences) -> torch.Tensor:
        ids, log_p, _ = soft.packed.sparse_log_probs(temperature)
        p = log_p.log_softmax(1).exp()
        log_q = (logits[soft.row, soft.place] / temperature).log_softmax(1).gather(1, ids)
        return temperature**2 * -(p * log_q).sum(1).mean()

    return loss


def soft_targets(temperature: float) -> Loss:
    """Return the loss that compares whole distributions: KL(teacher || student) over all classes."""
    return lambda logits, soft: softcache.distillation_loss(logits, soft, temperature)


def train(
    cache: softcache.Cache, ids: list[str], target: str, loss: Loss, seed: int, options: argparse.Namespace
) -> LlamaForCausalLM:
    """Train a student on the passages `ids`. All students with the same seed see the same batches."""
    readable = cache[target]
    model = student(readable.task.shape[0], options.width, seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=options.steps)
    picks = np.random.default_rng(seed)
    for _ in range(options.steps):
        soft = readable.lookup([ids[i] for i in picks.integers(len(ids), size=BATCH)])
        step = loss(model(input_ids=soft.tokens.long().clamp(min=0)[:, :-1]).logits, soft)
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.inference_mode()
def evaluate(model: LlamaForCausalLM, cache: softcache.Cache, ids: list[str]) -> tuple[float, float]:
    """Return the mean KL(teacher || student) at T = 1, and the student's perplexity."""
    kl = loss = positions = 0.0
    for begin in range(0, len(ids), BATCH):
        soft = cache["exact"].lookup(ids[begin : begin + BATCH])
        logits = model(input_ids=soft.tokens.long().clamp(min=0)[:, :-1]).logits
        kl += softcache.distillation_loss(logits, soft, reduction="sum").item()
        loss += softcache.distillation_loss(logits, soft, labels=soft.next_tokens(), alpha=0.0, reduction="sum").item()
        positions += len(soft.row)
    return kl / positions, math.exp(loss / positions)


STUDENTS = {
    "text only": ("next", text_alone),
    "renormalised top-32, T = 1": ("next", renormalised(1.0)),
    "renormalised top-32, T = 2": ("next", renormalised(2.0)),
    "softcache, T = 1": ("next", soft_targets(1.0)),
    "softcache, T = 2": ("next", soft_targets(2.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="the cache that `softcache build` wrote")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--width", type=int, default=96)
    options = parser.parse_args()
    cache = softcache.open(options.cache)
    rows = cache.rows.table().select(["sample_id", "held_out"]).to_pylist()
    seen = [row["sample_id"] for row in rows if not row["held_out"]]
    held_out = [row["sample_id"] for row in rows if row["held_out"]]
    print(f"{len(seen):,} passages to train on, {len(held_out):,} held out; {options.steps} steps of {BATCH}")
    print(f"{'student trained on':28} {'KL to teacher':>13} {'perplexity':>10} {'seconds':>8}", flush=True)
    for name, (target, loss) in STUDENTS.items():
        began = time.monotonic()
        found = [
            evaluate(train(cache, seen, target, loss, seed, options), cache, held_out) for seed in range(options.seeds)
        ]
        kl, perplexity = np.array(found).mean(0)
        print(f"{name:28} {kl:13.3f} {perplexity:10.1f} {time.monotonic() - began:8.0f}", flush=True)


if __name__ == "__main__":
    main()
