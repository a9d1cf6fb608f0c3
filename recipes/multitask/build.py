"""Train a teacher of all four tasks, and with --alone a teacher for each, and build the cache of their answers.

python recipes/multitask/build.py runs/multitask --data FOLDER

Weights are kept beside the cache. Run it again after a kill: it goes on where it was. Run it again with --alone, and
the answers of the four teachers are added to the cache.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from losses import FIXED, hard_losses
from measures import MEASURES, answers, average_precision, measures
from network import TASKS, Network
from safetensors.torch import save_file
from scenes import COUNT, HUB, TESTS, augment, draw, scenes, tensor

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn, trained, write_whole
from mnist import whole

SETTINGS = {"width": 16, "epochs": 12, "batch": 64, "rate": 2e-3, "seed": 0}


def train(job, checkpoint):
    """Train a teacher on hard labels, with fresh scenes in each epoch, and keep its weights."""
    torch.manual_seed(job["seed"])
    model, generator = Network(job["width"], job["tasks"]).to(device()), torch.Generator().manual_seed(job["seed"])
    found = {}

    def rows(generator):
        found.update(draw(job["data"], "train", job["count"], int(torch.randint(2**31, (), generator=generator))))
        return torch.arange(job["count"])

    def loss(rows):
        chance = np.random.default_rng(int(torch.randint(2**62, ())))  # torch's generator is in the checkpoint
        views = torch.stack([tensor(augment(image.numpy(), chance)) for image in found["image"][rows]])
        losses = hard_losses(model(views.to(device())), {task: found[task][rows].to(device()) for task in job["tasks"]})
        return sum(FIXED[task] * losses[task] for task in losses)

    learn(job, checkpoint, model, generator, job["count"], loss, rows=rows)
    weights = checkpoint.with_suffix(".safetensors")
    write_whole(weights, lambda path: save_file(model.state_dict(), path))
    said, tests = answers(model, job["data"]), scenes(job["data"], "test", TESTS, 1)
    return {"weights": str(weights)} | measures(said, tests) | average_precision(said, tests)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the cache is written")
    parser.add_argument("--data", default=HUB, help="a folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--count", type=int, default=COUNT, help="scenes; a fiftieth of them is kept of each digit")
    parser.add_argument("--alone", action="store_true", help="add the four teachers of one task (--tables teachers)")
    options = parser.parse_args()
    folder = options.cache.with_name(f"{options.cache.name}-teachers").resolve()
    data = whole(options.data)
    jobs = {
        name: SETTINGS | {"tasks": list(tasks), "data": data, "count": options.count, "epochs": options.epochs}
        for name, tasks in {"together": TASKS, **{task: (task,) for task in TASKS if options.alone}}.items()
    }
    teachers = dict(zip(jobs, trained(list(jobs.values()), train, folder), strict=True))
    for name, found in teachers.items():
        print(name, {measure: round(found[measure], 4) for measure in MEASURES if measure in found})
    overrides = [f"transfer_set.source.arguments={json.dumps({'path': data, 'count': options.count})}"]
    overrides += [f"transfer_set.balance.each={options.count // 50}"]
    overrides += [f"teachers.{name}.weights={json.dumps(found['weights'])}" for name, found in teachers.items()]
    if not options.alone:
        overrides += [change for task in TASKS for change in (f"tasks.{task}.teachers=[together]", f"~teachers.{task}")]
    built = softcache.build(Path(__file__).parent / "recipe.yaml", options.cache, overrides)
    print(f"{built.path}: {len(built.targets)} targets, {built.rows:,} views")


if __name__ == "__main__":
    main()
