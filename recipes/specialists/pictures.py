"""Draw which classes a generalist confuses, and what its specialists gain, from the cache.

python recipes/specialists/pictures.py runs/specialists --out runs
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from train import compare, generalist

import softcache

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import save

TEMPERATURE = 2.0  # that of the clustering


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--out", type=Path, help="where the pictures go, by default beside the cache")
    options = parser.parse_args()
    path = str(options.cache)

    def confusion(axes):
        """How often two classes are likely together: the rows that are clustered."""
        seen = np.flatnonzero(~np.array(softcache.open(path).rows.table()["test"]))
        probs = generalist(path, 0).read(seen).probs(TEMPERATURE).double().numpy()
        correlation = np.corrcoef(probs.T) - np.eye(probs.shape[1])
        drawn = axes.imshow(correlation, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        axes.figure.colorbar(drawn, label=f"correlation of the probabilities, T = {TEMPERATURE:g}")
        ticks = range(len(correlation))
        axes.set(xlabel="class", ylabel="class", xticks=ticks, yticks=ticks)
        axes.tick_params(labelsize="small")

    def coverage(axes):
        """Right test images by the number of specialists that know their class."""
        alone, both, count = compare(path, 0)
        counts = count.unique().tolist()
        for title, right, shift in (("generalist", alone, -0.2), ("with its specialists", both, 0.2)):
            shares = [100 * right[count == each].float().mean().item() for each in counts]
            axes.bar([each + shift for each in counts], shares, 0.4, label=title)
        axes.set(xlabel="specialists that know the class", ylabel="right test images, %", xticks=counts, ylim=(60, 100))

    save(options.out or options.cache.parent, (confusion, coverage))


if __name__ == "__main__":
    main()
