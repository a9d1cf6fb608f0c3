"""Draw what train.py found: how students converge, and scenes that they get wrong.

python recipes/multitask/pictures.py runs/multitask-students
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

from measures import answers, overlap
from network import TASKS, Network
from safetensors.torch import load_file
from scenes import CANVAS, MASK, TESTS, scenes

sys.path.insert(0, str(Path(__file__).parents[1]))
from drawing import chosen, plt, results, save

LINES = {
    "hard labels": {"alpha": 0.0, "hint": 0.0},
    "soft labels": {"alpha": 0.8, "hint": 0.0},
    "soft labels and features": {"alpha": 0.8, "hint": 0.1},
}
MEASURE = {"digit": "accuracy", "mask": "IoU", "box": "box AR", "angle": "angle error"}
ROWS, COLUMNS = 3, 6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train.py keeps its results")
    folder = parser.parse_args().folder
    students = chosen(results(folder), weights="fixed", teacher="together", fresh=False)
    save(folder, [convergence(students, task) for task in TASKS])
    best = chosen(students, tasks=list(TASKS), **LINES["soft labels and features"])
    mistakes(folder, min(best, key=lambda student: student["job"]["seed"]))


def convergence(students, task):
    """Return a picture of the mean of a task's measure after each epoch."""

    def draw(axes):
        lines = {title: chosen(students, tasks=list(TASKS), **settings) for title, settings in LINES.items()}
        lines[f"{task} alone, hard labels"] = chosen(students, tasks=[task], alpha=0.0)
        for title, those in lines.items():
            curves = zip(*([point[MEASURE[task]] for point in each["curve"]] for each in those), strict=True)
            points = [mean(numbers) for numbers in curves]
            axes.plot(range(1, len(points) + 1), points, label=title)
        axes.set(xlabel="epochs", ylabel=MEASURE[task])

    draw.__name__ = task
    return draw


def mistakes(folder, student):
    """Draw scenes whose digit a student gets wrong, with its mask, its box (red) and the true one (green)."""
    job = student["job"]
    model = Network(job["width"], job["tasks"])
    model.load_state_dict(load_file(folder / student["weights"]))
    found = scenes(job["data"], "test", TESTS, 1)
    said = answers(model, job["data"])
    wrong = (said["digit"].argmax(1) != found["digit"]).nonzero()[: ROWS * COLUMNS, 0].tolist()
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(9, 5.2), layout="constrained")
    for place, number in zip(axes.flat, wrong, strict=False):
        place.imshow(found["image"][number], cmap="gray")
        mask = said["mask"][number, 0].sigmoid()
        half = CANVAS / MASK / 2 - 0.5  # where the centre of the mask's first pixel lies
        at = [half + CANVAS / MASK * i for i in range(MASK)]
        if mask.max() > 0.5 > mask.min():
            place.contour(at, at, mask, levels=[0.5], colors="deepskyblue", linewidths=1)
        for boxes, colour in ((found["box"], "lime"), (said["box"], "red")):
            x1, y1, x2, y2 = (boxes[number] * CANVAS - 0.5).tolist()
            place.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour))
        shared = overlap(said["box"][[number]], found["box"][[number]]).item()
        right, answered = int(found["digit"][number]), int(said["digit"][number].argmax())
        place.set_title(f"{right}, said {answered}\nbox IoU {shared:.2f}", fontsize=8)
    for place in axes.flat:
        place.axis("off")
    figure.savefig(folder / "mistakes.png", dpi=150)
    plt.close(figure)
    print(folder / "mistakes.png")


if __name__ == "__main__":
    main()
