"""Students that are given the same time: what an epoch takes, how many of them fit, and how good students are then."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from drawing import save
from experiments import Job, Train, device, trained, write_whole

CACHE, BUILT = "cache", "cache, its build counted"


def compare(
    folder: Path,
    jobs: dict[str, Job],
    train: Train,
    build: Callable[[Path], Any],
    counts: list[int],
    seeds: list[int],
    error: str,
    unit: tuple[str, int] = ("epoch", 1),
) -> None:
    """Give students of each kind as much time as a student from the cache needs for some numbers of epochs.

    `jobs` are kinds of students by name, one of them CACHE; `train` returns their `error`, a name for the picture.
    Another row is of students from the cache whose time also pays for the build. Each student's learning rate falls to
    0 in the epochs that it is given. If the epochs of `train` are so many steps, `unit` says so. Prints the table and
    draws the errors against the time, in `folder`.
    """
    seconds = timed(folder, jobs, train, build)
    times = [count * seconds[CACHE] for count in counts]
    kinds = jobs | {BUILT: jobs[CACHE]}
    given = {name: [fitting(seconds, name, each) for each in times] for name in kinds}
    asked = [(name, epochs) for name in kinds for epochs in given[name] if epochs]
    students = [kinds[name] | {"epochs": epochs, "seed": seed} for name, epochs in asked for seed in seeds]
    found = iter(trained(students, train, folder))
    errors = {pair: [next(found)[error] for _ in seeds] for pair in asked}
    spread = f", mean ± standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else ", one seed"
    print(f"\n{error}{spread}; a build takes {seconds[BUILT]:.0f} s")
    print(f"\n| student | seconds per {unit[0]} | {' | '.join(f'in {each:.0f} s' for each in times)} |")
    print(f"|---|--:|{'--:|' * len(times)}")
    for name in kinds:
        cells = [cell(errors[name, n], n * unit[1], unit[0]) if n else "none" for n in given[name]]
        print(f"| {name} | {seconds[CACHE if name == BUILT else name] / unit[1]:.2f} | {' | '.join(cells)} |")

    def equal_time(axes: Any) -> None:
        for name in kinds:
            points = [(each, mean(errors[name, n])) for each, n in zip(times, given[name], strict=True) if n]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel="seconds", ylabel=error, xscale="log", yscale="log")
        axes.set_xticks(times, [f"{each:.0f}" for each in times])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")

    save(folder, (equal_time,))


def timed(folder: Path, jobs: dict[str, Job], train: Train, build: Callable[[Path], Any]) -> dict[str, float]:
    """Return the median seconds of an epoch by name, and under BUILT those of a build, all with one thread.

    The kinds take turns, so that what else the machine does slows all of them alike. The figures are kept: if the
    script goes on after a kill, students are given the same numbers of epochs.
    """
    kept, asked = folder / "seconds.json", {"jobs": jobs, "device": device()}
    if kept.exists() and (found := json.loads(kept.read_text()))["asked"] == asked:
        return found["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # as the processes of `trained` have
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    with TemporaryDirectory(dir=folder) as work:
        for number in range(3):
            for name, job in jobs.items():
                checkpoint = Path(work) / f"{name} {number}.pt"
                train(job | {"epochs": 1, "seed": number}, checkpoint)
                taken[name].append(torch.load(checkpoint, weights_only=True)["seconds"])
        began = time.perf_counter()
        build(Path(work) / "cache")
        seconds = {name: median(each) for name, each in taken.items()} | {BUILT: time.perf_counter() - began}
    write_whole(kept, lambda path: path.write_text(json.dumps({"asked": asked, "seconds": seconds})))
    return seconds


def fitting(seconds: dict[str, float], name: str, given: float) -> int:
    """Return how many epochs of a kind fit in a time."""
    left = given - seconds[BUILT] if name == BUILT else given
    return max(0, int(left / seconds[CACHE if name == BUILT else name] + 1e-6))


def cell(errors: list[float], count: int, unit: str) -> str:
    """Return the mean error, its spread, and the number of epochs or steps."""
    spread = f" ± {stdev(errors):.3g}" if len(errors) > 1 else ""
    return f"{mean(errors):.4g}{spread} ({count} {unit}{'s' if count > 1 else ''})"
