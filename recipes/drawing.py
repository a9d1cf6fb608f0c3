"""Pictures of what `experiments.trained` kept: means over seeds, in the course of training or against a setting."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

Models = list[dict[str, Any]]


def results(folder: Path) -> Models:
    """Return the models that `trained` kept in a folder, of the cache that the last one learned from."""
    models = json.loads((folder / "results.json").read_text())
    return chosen(models, begun=models[-1]["job"]["begun"])


def chosen(models: Models, **settings: Any) -> Models:
    """Return the models whose job has some settings."""
    return [each for each in models if all(each["job"][name] == value for name, value in settings.items())]


def draw_curve(axes: Any, title: str, models: Models) -> None:
    """Draw the mean of some models' curves. Without models it draws nothing."""
    points = [mean(numbers) for numbers in zip(*(each["curve"] for each in models), strict=True)]
    if points:
        axes.plot([(number + 1) / len(points) for number in range(len(points))], points, label=title)


def draw_means(axes: Any, title: str, models: Models, setting: str, number: str) -> None:
    """Draw the mean of a number that was found, against a setting."""
    values = sorted({each["job"][setting] for each in models})
    means = [mean(each[number] for each in chosen(models, **{setting: value})) for value in values]
    axes.plot(values, means, marker="o", label=title)


def save(folder: Path, pictures: Iterable[Callable[[Any], None]]) -> None:
    """Draw each picture on axes of its own, and write it to the folder under the function's name."""
    for draw in pictures:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        path = folder / f"{draw.__name__}.png"
        figure.savefig(path, dpi=150)
        plt.close(figure)
        print(path)
