"""Draw what train.py found: errors against T by width, and how students with 3 % of the images learn.

python recipes/hinton/pictures.py runs/hinton-students
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import chosen, draw_curve, draw_means, results, save

LINES = {
    "hard labels, all images": {"alpha": 0.0, "share": 1.0},
    "hard labels, 3 % of the images": {"alpha": 0.0, "share": 0.03},
    "soft targets, 3 % of the images": {"alpha": 1.0, "share": 0.03},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.py keeps its results")
    folder = parser.parse_args().folder
    students = chosen(results(folder), digits="0123456789")

    def sweep(axes):
        """Students of constant T."""
        own = [each for each in chosen(students, alpha=1.0, share=1.0) if isinstance(each["job"]["temperature"], float)]
        for width in sorted({each["job"]["width"] for each in own}):
            draw_means(axes, f"{width} units", chosen(own, width=width), "temperature", "errors")
        axes.set(xlabel="T", ylabel="test errors", xscale="log", yscale="log")

    def curves(axes):
        for title, settings in LINES.items():
            draw_curve(axes, title, chosen(students, width=800, temperature=20.0, **settings))
        axes.set(xlabel="part of the training", ylabel="test errors", yscale="log")

    save(folder, (sweep, curves))


if __name__ == "__main__":
    main()
