"""Speak the corpus, train ten networks on hard labels, and build the cache of their answers.

python recipes/speech/build.py runs/speech

Speech and weights are kept beside the cache. Run it again after a kill: it goes on where it was.
"""

import argparse
import json
import sys
from pathlib import Path

import corpus
from hearing import heard, trained_network
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import row, trained, write_whole

TEACHERS, LABELLED, UNLABELLED, EPOCHS, WIDTH = 10, 1, 3, 8, 512


def train(job, checkpoint):
    """Train a network on hard labels and keep its weights."""
    frames = heard(job["corpus"], "train")

    def loss(logits, rows):
        return cross_entropy(logits, frames.states[rows])

    network, found = trained_network(job, checkpoint, frames, loss)
    weights = checkpoint.with_suffix(".safetensors")
    write_whole(weights, lambda path: save_file(network.state_dict(), path))
    return found | {"weights": weights.name}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the cache is written")
    parser.add_argument("--every", type=int, default=1, help="speak one sentence in so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    folder = options.cache.with_name(f"{options.cache.name}-teachers").resolve()
    corpus.write(folder, LABELLED, UNLABELLED, options.every)
    common = {"corpus": str(folder), "width": WIDTH, "epochs": options.epochs, "share": 1.0}
    jobs = [common | {"seed": seed, "every": options.every} for seed in range(TEACHERS)]
    found = trained(jobs, train, folder)
    print("frames of the test set that a network gets right, in %")
    print(row("one network", [each["accuracy"] for each in found], 2))
    paths = [str(folder / f"{name}.parquet") for name in ("train", "more", "test")]
    overrides = [f"transfer_set.source.paths={json.dumps(paths)}"]
    overrides += [
        f"teachers.net{number}.weights={json.dumps(str(folder / each['weights']))}" for number, each in enumerate(found)
    ]
    built = softcache.build(Path(__file__).parent / "recipe.yaml", options.cache, overrides)
    print(f"{built.path}: {len(built.targets)} networks have answered {built.rows} utterances")


if __name__ == "__main__":
    main()
