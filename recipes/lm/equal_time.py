"""Compare students that trained for the same time: on text, with a live teacher, and from the cache.

python recipes/lm/equal_time.py runs/lm

Steps of each are timed first, and a build of the cache; that wants a machine that does nothing else. Then students are
trained. Run it again after a kill: it goes on where it was. Unlike train.py it needs the teacher. The build that is
timed is that of the whole recipe, with passages and a target that only serve to evaluate students.
"""

import argparse
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from train import LOSSES, STEPS_PER_EPOCH, answers, train_with
from transformers import AutoModelForCausalLM

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from clock import CACHE, compare
from experiments import Job, device, of_cache

RECIPE = Path(__file__).parent / "recipe.yaml"
KINDS = ("text only", "live teacher", "renormalised top-32", CACHE)


def train(job: Job, checkpoint: Path) -> dict[str, Any]:
    """Train a student of a kind, and return how far from the teacher it is on passages that it has not seen."""
    losses = {name.removesuffix(", T = 1"): loss for name, loss in LOSSES.items()}
    losses |= {"live teacher": live, CACHE: losses["softcache"]}
    return train_with(losses[job["kind"]], job, checkpoint)


def live(logits: torch.Tensor, soft: softcache.SoftSequences) -> torch.Tensor:
    """Return KL(teacher || student) at T = 1, of what the teacher says now."""
    with torch.no_grad():
        said = answers(teacher(), soft)[soft.row, soft.place].log_softmax(1)
    ours = logits[soft.row, soft.place].log_softmax(1)
    return torch.nn.functional.kl_div(ours, said, reduction="batchmean", log_target=True)


@cache
def teacher() -> torch.nn.Module:
    """Return the teacher of the recipe."""
    told = yaml.safe_load(RECIPE.read_text())["teachers"]["smollm"]
    folder = find_spec(told["model"].removeprefix("package:")).submodule_search_locations[0]
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=told["gguf"], dtype=torch.float32).to(device()).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="the cache that `softcache build` wrote")
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 600], help="of a student from the cache")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if odd := [steps for steps in options.steps if steps % STEPS_PER_EPOCH]:
        parser.error(f"--steps {odd[0]}: it must be a multiple of {STEPS_PER_EPOCH}")
    common = of_cache(options.cache) | {"width": 96}
    overrides = [f"transfer_set.source.arguments.limit={len(softcache.open(options.cache).rows.table())}"]
    compare(
        options.cache.with_name(f"{options.cache.name}-equal-time"),
        {kind: common | {"kind": kind} for kind in KINDS},
        train,
        lambda path: softcache.build(RECIPE, path, overrides),
        [steps // STEPS_PER_EPOCH for steps in options.steps],
        list(range(options.seeds)),
        "KL to the teacher",
        ("step", STEPS_PER_EPOCH),
    )


if __name__ == "__main__":
    main()
