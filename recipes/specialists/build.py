"""Train generalists, find which classes each confuses, train its specialists, and build the cache of all answers.

python recipes/specialists/build.py runs/specialists --data MNIST FASHION

Weights are kept beside the cache. Run it again after a kill: it goes on where it was.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from data import FASHION, HUB, tensors
from network import network
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import device, learn, trained, write_whole
from mnist import whole

GENERALISTS, WIDTH = 5, 24
GENERAL, SPECIAL = {"epochs": 30, "batch": 128, "rate": 2e-3}, {"epochs": 8, "batch": 128, "rate": 2e-3}
TEMPERATURE, CLUSTERS, LARGEST = 2.0, range(4, 11), 6  # of the clustering; how many clusters; classes of a specialist


def train(job, checkpoint):
    """Train a generalist or, if the job names a generalist and some of its classes, a specialist. Keep its weights."""
    images, labels = (each.to(device()) for each in tensors(job["data"], "train"))
    torch.manual_seed(job["seed"])
    generator = torch.Generator().manual_seed(job["seed"])
    if "known" not in job:
        model = network(job["classes"], job["width"]).to(device())
        learn(job, checkpoint, model, generator, len(labels), loss_of(model, images, labels))
    else:
        model, labels = specialist(job, labels)
        own, others = (rows.nonzero()[:, 0] for rows in (labels < len(job["known"]), labels == len(job["known"])))
        count = min(len(own), len(others))

        def rows(generator):
            """Half of what a specialist sees are its own classes, half are others at random."""
            return torch.cat([each[torch.randperm(len(each), generator=generator)[:count]] for each in (own, others)])

        learn(job, checkpoint, model, generator, 2 * count, loss_of(model, images, labels), rows=rows)
        with torch.no_grad():  # the others are more numerous than they were shown
            model[-1].bias[-1] += math.log(len(others) / len(own))
    weights = checkpoint.with_suffix(".safetensors")
    write_whole(weights, lambda path: save_file(model.state_dict(), path))
    return {"weights": str(weights)}


def loss_of(model, images, labels):
    """Return the loss of hard labels for some images, as a function of their numbers."""
    return lambda rows: cross_entropy(model(images[rows]), labels[rows])


def specialist(job, labels):
    """Return a specialist that begins as its generalist, and labels among what it knows; the last is the dustbin."""
    known, width = job["known"], job["width"]
    others = [label for label in range(job["classes"]) if label not in known]
    state = load_file(job["generalist"])
    last = max(name.split(".")[0] for name in state)
    for name in (f"{last}.weight", f"{last}.bias"):
        state[name] = torch.cat([state[name][known], state[name][others].mean(0, keepdim=True)])
    model = network(len(known) + 1, width)
    model.load_state_dict(state)
    places = torch.full((job["classes"],), len(known))
    places[known] = torch.arange(len(known))
    return model.to(device()), places.to(device())[labels]


def confused(probs):
    """Return sets of classes that are likely together, from probabilities [n, C] (Hinton et al. 2015, section 5.3).

    The paper clusters the columns of the covariance matrix; here it is the correlation matrix. Several numbers of
    clusters make sets that overlap.
    """
    correlation, found = np.corrcoef(probs.double().numpy().T), set()
    for count in CLUSTERS:
        if count < len(correlation):
            clusters = KMeans(count, n_init=10, random_state=0).fit_predict(correlation)
            found |= {tuple(np.flatnonzero(clusters == each).tolist()) for each in range(count)}
    return sorted(classes for classes in found if 1 < len(classes) <= LARGEST)


def add(options, data, models, files):
    """Build the answers of some models, whose weights are in files, into the cache, with what specialists know."""
    overrides = [f"transfer_set.source.arguments.paths={json.dumps(data)}", f"tasks.class.classes={10 * len(data)}"]
    overrides += [f"tasks.class.teachers={json.dumps(list(models))}"]
    for (name, job), weights in zip(models.items(), files, strict=True):
        teacher = {
            "model": "network:network",
            "arguments": {
                "classes": len(job["known"]) + 1 if "known" in job else job["classes"],
                "width": job["width"],
            },
            "weights": weights,
            "preprocess": "data:preprocess",
            "reads": ["image"],
        }
        overrides += [f"teachers.{name}={json.dumps(teacher)}"]
        if "known" in job:
            overrides += [f"tasks.class.knows.{name}={json.dumps(job['known'])}"]
    if any("known" in job for job in models.values()):
        overrides += [f"tasks.class.dustbin={json.dumps(list(models))}"]
    built = softcache.build(Path(__file__).parent / "recipe.yaml", options.cache, overrides)
    print(f"{built.path}: {len(built.targets)} models have answered {built.rows:,} images", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the cache is written")
    parser.add_argument("--data", nargs="+", default=[HUB, FASHION], help="folders with IDX files, or names on the Hub")
    parser.add_argument("--generalists", type=int, default=GENERALISTS)
    parser.add_argument("--epochs", type=float, default=1.0, help="a factor for all epochs")
    options = parser.parse_args()
    folder = options.cache.with_name(f"{options.cache.name}-teachers").resolve()
    data = [whole(path) for path in options.data]
    common = {"data": data, "classes": 10 * len(data), "width": WIDTH}
    general, special = (
        common | settings | {"epochs": max(1, round(settings["epochs"] * options.epochs))}
        for settings in (GENERAL, SPECIAL)
    )
    names = [f"g{seed}" for seed in range(options.generalists)]
    generalists = {name: general | {"seed": seed} for seed, name in enumerate(names)}
    files = [found["weights"] for found in trained(list(generalists.values()), train, folder)]
    add(options, data, generalists, files)
    cache, specialists = softcache.open(options.cache), {}
    seen = np.flatnonzero(~np.array(cache.rows.table()["test"]))
    for seed, name in enumerate(names):
        for number, known in enumerate(confused(cache[f"class@{name}"].read(seen).probs(TEMPERATURE))):
            own = {"known": list(known), "generalist": files[seed], "seed": seed}
            specialists[f"{name}-s{number}"] = special | own
    files = [found["weights"] for found in trained(list(specialists.values()), train, folder)]
    add(options, data, specialists, files)


if __name__ == "__main__":
    main()
