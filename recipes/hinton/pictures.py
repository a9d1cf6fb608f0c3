"""Draw what train.py found: errors against T by width, and how students with 3 % of the images learn.

python recipes/hinton/pictures.py runs/hinton-students
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

LINES = {
    "hard labels, all images": {"alpha": 0.0, "share": 1.0},
    "hard labels, 3 % of the images": {"alpha": 0.0, "share": 0.03},
    "soft targets, 3 % of the images": {"alpha": 1.0, "share": 0.03},
}


def chosen(students, **settings):
    """Return the students with some settings."""
    return [each for each in students if all(each["job"][name] == value for name, value in settings.items())]


def sweep(students, axes):
    """Draw the mean errors of students of constant T against T, a line for each width."""
    soft = chosen(students, alpha=1.0, share=1.0, digits="0123456789")
    constant = [each for each in soft if isinstance(each["job"]["temperature"], float)]
    for width in sorted({each["job"]["width"] for each in constant}):
        own = chosen(constant, width=width)
        found = {
            t: mean(e["errors"] for e in chosen(own, temperature=t)) for t in {e["job"]["temperature"] for e in own}
        }
        axes.plot(*zip(*sorted(found.items()), strict=True), marker="o", label=f"{width} units")
    axes.set(xlabel="T", ylabel="test errors", xscale="log", yscale="log")


def curves(students, axes):
    """Draw the errors in the course of training, averaged over the seeds."""
    for title, settings in LINES.items():
        own = chosen(students, digits="0123456789", width=800, **settings)
        own = [each for each in own if each["job"]["temperature"] == 20.0]
        if own:
            points = [mean(errors) for errors in zip(*(each["curve"] for each in own), strict=True)]
            axes.plot([(i + 1) / len(points) for i in range(len(points))], points, label=title)
    axes.set(xlabel="part of the training", ylabel="test errors", yscale="log")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.py keeps its results")
    folder = parser.parse_args().folder
    students = json.loads((folder / "results.json").read_text())
    for draw in (sweep, curves):
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        draw(students, axes)
        axes.legend()
        path = folder / f"{draw.__name__}.png"
        figure.savefig(path, dpi=150)
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main()
