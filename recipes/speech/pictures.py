"""Draw what train.py found: how students with all labelled frames and with 3 % of them learn.

python recipes/speech/pictures.py runs/speech-students
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import chosen, draw_curve, results, save

LINES = {
    "soft targets, all frames": {"alpha": 0.5, "share": 1.0},
    "hard labels, 3 % of the frames": {"alpha": 0.0, "share": 0.03},
    "soft targets, 3 % of the frames": {"alpha": 0.5, "share": 0.03},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.py keeps its results")
    folder = parser.parse_args().folder
    students = chosen(results(folder), files=["train"], temperature=2.0)

    def curves(axes):
        for title, settings in LINES.items():
            draw_curve(axes, title, chosen(students, **settings))
        axes.set(xlabel="part of the training", ylabel="right frames of the test set, %")

    save(folder, (curves,))


if __name__ == "__main__":
    main()
