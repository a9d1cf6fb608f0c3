"""Train small language models from the cache: on text only, on renormalised top-k, on softcache's targets.

python recipes/lm/train.py runs/lm

Run it again after a kill: students that are done are not trained again, and the others go on where they were.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import Job, device, epochs, of_cache, trained

STEPS, BATCH, RATE = 150, 4, 3e-3
STEPS_PER_EPOCH = 10  # an epoch is no more than this: the student is saved after each
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


def text_only(logits: torch.Tensor, soft: softcache.SoftSequences) -> torch.Tensor:
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


LOSSES = {
    "text only": text_only,
    "renormalised top-32, T = 1": renormalised(1.0),
    "renormalised top-32, T = 2": renormalised(2.0),
    "softcache, T = 1": soft_targets(1.0),
    "softcache, T = 2": soft_targets(2.0),
}


def train(job: Job, checkpoint: Path) -> dict[str, Any]:
    """Train a student with one of the `LOSSES`, and return how far from the teacher it is."""
    return train_with(LOSSES[job["loss"]], job, checkpoint)


def train_with(loss: Loss, job: Job, checkpoint: Path) -> dict[str, Any]:
    """Train a student. All students with the same seed see the same batches."""
    cache = softcache.open(job["cache"])
    seen, held_out = passages(cache)
    model = student(cache["next"].task.shape[0], job["width"], job["seed"]).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    steps = job["epochs"] * STEPS_PER_EPOCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    batches = np.random.default_rng(job["seed"]).integers(len(seen), size=(steps, BATCH))
    for epoch in epochs(checkpoint, job["epochs"], model=model, optimizer=optimizer, schedule=schedule):
        for batch in batches[epoch * STEPS_PER_EPOCH :][:STEPS_PER_EPOCH]:
            soft = cache["next"].lookup([seen[i] for i in batch]).to(device())
            optimizer.zero_grad()
            loss(answers(model, soft), soft).backward()
            optimizer.step()
            schedule.step()
    return evaluate(model, cache, held_out)


def passages(cache: softcache.Cache) -> tuple[list[str], list[str]]:
    """Return the ids of the passages to train on, and of those that are held out."""
    rows = cache.rows.table().select(["sample_id", "held_out"]).to_pylist()
    seen, held_out = ([row["sample_id"] for row in rows if row["held_out"] == which] for which in (False, True))
    return seen, held_out


def answers(model: LlamaForCausalLM, soft: softcache.SoftSequences) -> torch.Tensor:
    """Return a model's logits [B, L, C] for the tokens of soft targets. Padding comes last, so it needs no mask."""
    return model(input_ids=soft.tokens.long().clamp(min=0)[:, :-1]).logits


@torch.inference_mode()
def evaluate(model: LlamaForCausalLM, cache: softcache.Cache, ids: list[str]) -> dict[str, float]:
    """Return the mean KL(teacher || student) at T = 1, and the student's perplexity."""
    kl = loss = positions = 0.0
    for begin in range(0, len(ids), BATCH):
        soft = cache["exact"].lookup(ids[begin : begin + BATCH]).to(device())
        logits = answers(model, soft)
        kl += softcache.distillation_loss(logits, soft, reduction="sum").item()
        loss += softcache.distillation_loss(logits, soft, labels=soft.next_tokens(), alpha=0.0, reduction="sum").item()
        positions += len(soft.row)
    return {"KL to the teacher": kl / positions, "perplexity": math.exp(loss / positions)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="the cache that `softcache build` wrote")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"a multiple of {STEPS_PER_EPOCH}")
    parser.add_argument("--width", type=int, default=96)
    options = parser.parse_args()
    if options.steps % STEPS_PER_EPOCH:
        parser.error(f"--steps {options.steps}: it must be a multiple of {STEPS_PER_EPOCH}")
    common = of_cache(options.cache) | {"epochs": options.steps // STEPS_PER_EPOCH, "width": options.width}
    jobs = [common | {"loss": name, "seed": seed} for name in LOSSES for seed in range(options.seeds)]
    found = iter(trained(jobs, train, options.out or options.cache.with_name(f"{options.cache.name}-students")))
    seen, held_out = passages(softcache.open(options.cache))
    print(f"\n{len(seen):,} passages to train on, {len(held_out):,} held out; {options.steps} steps of {BATCH}")
    print("\n| student trained on | KL to the teacher | perplexity | seconds |\n|---|--:|--:|--:|")
    for name in LOSSES:
        students = [next(found) for _ in range(options.seeds)]
        kl, perplexity, seconds = (
            mean(each[what] for each in students) for what in ("KL to the teacher", "perplexity", "seconds")
        )
        print(f"| {name} | {kl:.3f} | {perplexity:,.1f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
