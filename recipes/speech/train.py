"""Train students from the cache of ten networks as Hinton et al. 2015, sections 4 and 6, and print the tables.

python recipes/speech/train.py runs/speech

The teachers' weights are not needed. Run it again after a kill: students that are done are not trained again, and the
others go on from their last epoch.
"""

import argparse
import sys
from functools import cache
from pathlib import Path
from statistics import mean

from hearing import accuracy, device, heard, trained_network
from torch.nn.functional import cross_entropy

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments import of_cache, row, soft_loss, softened, trained

FIRST_SEED = 10  # the teachers have 0 to 9
# A student, unless its row says otherwise.
SOFT = {"files": ["train"], "share": 1.0, "temperature": 2.0, "alpha": 0.5, "epochs": 12}
MORE = {"files": ["train", "more"], "epochs": 10}
FEW = {"share": 0.03, "epochs": 200}
TABLES = {
    "main": {
        "soft targets": SOFT,
        "soft targets, and speech without labels": SOFT | MORE,
    },
    "few": {
        "hard labels, 3 % of the frames": SOFT | FEW | {"alpha": 0.0},
        "soft targets, 3 % of the frames": SOFT | FEW,
    },
    "long": {"soft targets, and speech without labels, 30 epochs": SOFT | MORE | {"epochs": 30}},
    "temperatures": {f"T = {t}": SOFT | MORE | {"temperature": float(t)} for t in (1, 2, 5, 10)},
}


def train(job, checkpoint):
    """Train a student. Frames without a label have only the soft part of the loss."""
    frames, alpha, temperature = heard(job["corpus"], *job["files"]), job["alpha"], job["temperature"]
    soft = targets(job["cache"], tuple(frames.utterances), temperature) if alpha else None

    def loss(logits, rows):
        states = frames.states[rows]
        hard = cross_entropy(logits, states, reduction="sum") / (states >= 0).sum().clamp(min=1)
        return hard if soft is None else alpha * soft_loss(logits, soft[rows], temperature) + (1 - alpha) * hard

    return trained_network(job, checkpoint, frames, loss)[1]


@cache
def targets(path, utterances, temperature, members=None):
    """Return the mean probabilities of all networks, or of some `members`, for each frame, float16 [N, states]."""
    opened = softcache.open(path)
    targets = [opened[name] for name in members or opened.targets]
    target = softcache.ensemble(targets) if len(targets) > 1 else targets[0]
    soft = target.lookup(list(utterances))
    if not bool(soft.answered.all()):
        raise ValueError("some utterances have no answer: frames and soft targets would not be aligned")
    return softened(soft.packed, temperature).to(device())


def teachers(path, corpus):
    """Return the accuracy of each network, and that of all together, from their cached answers to the test set."""
    test, names = heard(corpus, "test"), softcache.open(path).targets
    asked = [(name,) for name in names] + [names]
    found = [accuracy(targets(path, tuple(test.utterances), 1.0, members), test.states) for members in asked]
    return [100 * share for share in found[:-1]], 100 * found[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--corpus", type=Path, help="the folder with the speech, by default beside the cache")
    parser.add_argument("--out", type=Path, help="where results are kept, by default beside the cache")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["main", "few"], help="by default main and few")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=1.0, help="a factor for all epochs")
    options = parser.parse_args()
    corpus = options.corpus or options.cache.with_name(f"{options.cache.name}-teachers")
    folder = options.out or options.cache.with_name(f"{options.cache.name}-students")
    single, together = teachers(str(options.cache), str(corpus))
    print("Frames of the test set whose state is right, in %")
    for name in options.tables:
        table, common = TABLES[name], of_cache(options.cache) | {"corpus": str(corpus), "width": options.width}
        jobs = [
            common | each | {"seed": FIRST_SEED + seed, "epochs": max(1, round(each["epochs"] * options.epochs))}
            for each in table.values()
            for seed in range(options.seeds)
        ]
        found = iter(trained(jobs, train, folder))
        print("\n| | mean | std | least | most | networks |\n|---|--:|--:|--:|--:|--:|")
        print(f"{row('one teacher', single, 2)}\n{row('all teachers together', [together], 2)}")
        reached = {title: [next(found)["accuracy"] for _ in range(options.seeds)] for title in table}
        for title, shares in reached.items():
            print(row(title, shares, 2))
        for title, each in table.items():
            if each["share"] == 1:
                kept = (mean(reached[title]) - mean(single)) / (together - mean(single))
                print(f"\n{title}: {100 * kept:.0f} % of what all teachers together gain over one")


if __name__ == "__main__":
    main()
