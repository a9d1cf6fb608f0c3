"""Train six teachers, evaluate them on images that they have not seen, and build the cache of their answers.

python recipes/choosing/build.py runs/choosing --data FOLDER

Weights and the evaluation are kept beside the cache. Run it again after a kill: it goes on where it was.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from data import FASHION, tensors
from network import network
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn, trained, write_whole
from mnist import whole

RECIPE = Path(__file__).parent / "recipe.yaml"
PLAIN = {"width": 800, "dropout": 0.0, "smoothing": 0.0, "epochs": 8, "rate": 1e-3, "batch": 128, "seed": 0}
TEACHERS = {
    "small": PLAIN | {"width": 64},
    "wide": PLAIN,
    "long": PLAIN | {"epochs": 30},
    "careful": PLAIN | {"dropout": 0.5, "epochs": 20},
    "smoothed": PLAIN | {"dropout": 0.5, "epochs": 20, "smoothing": 0.2},
    "early": PLAIN | {"dropout": 0.5, "epochs": 1},
}


def train(job, checkpoint):
    """Train a teacher on hard labels and keep its weights."""
    images, labels = (each.to(device()) for each in tensors(job["data"], "train"))
    torch.manual_seed(job["seed"])
    model, generator = network(job["width"], job["dropout"]).to(device()), torch.Generator().manual_seed(job["seed"])

    def loss(rows):
        return cross_entropy(model(images[rows]), labels[rows], label_smoothing=job["smoothing"])

    learn(job, checkpoint, model, generator, len(labels), loss)
    weights = checkpoint.with_suffix(".safetensors")
    write_whole(weights, lambda path: save_file(model.state_dict(), path))
    return {"weights": str(weights)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the cache is written")
    parser.add_argument("--data", default=FASHION, help="a folder with the four IDX files, or a dataset on the Hub")
    parser.add_argument("--epochs", type=float, default=1.0, help="a factor for all epochs")
    options = parser.parse_args()
    folder = options.cache.with_name(f"{options.cache.name}-teachers").resolve()
    data = whole(options.data)
    jobs = {name: job | {"data": data} for name, job in TEACHERS.items()}
    for job in jobs.values():
        job["epochs"] = max(1, round(job["epochs"] * options.epochs))
    found = trained(list(jobs.values()), train, folder)
    overrides = [f"transfer_set.source.arguments.path={json.dumps(data)}"]
    overrides += [
        f"teachers.{name}.weights={json.dumps(each['weights'])}" for name, each in zip(jobs, found, strict=True)
    ]
    evaluation = softcache.evaluate(RECIPE, [*overrides, "transfer_set.source.arguments.which=held out"])
    write_whole(folder / "evaluation.json", lambda path: path.write_text(json.dumps(evaluation.to_json())))
    built = softcache.build(RECIPE, options.cache, overrides)
    print(f"{built.path}: {len(built.targets)} teachers have answered {built.rows:,} images")


if __name__ == "__main__":
    main()
