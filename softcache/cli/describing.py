"""Targets in words: what they hold, and how far they are from their teachers."""

from __future__ import annotations

from typing import Any

import click

from softcache.cli.output import human_bytes, print_table

SHOWN = ("0.5", "1", "2", "4", "8", "20")
MEASURES = {"tail_mass": "tail mass", "tv": "total variation", "kl": "KL"}


def print_codecs(target: Any) -> None:
    """Print what a target would take, and lose, in other codecs; the recipe's own is marked."""
    temperatures = list(target.codecs[0].kl)
    click.echo(f"\n{target.name}, tried on a few answers (mean KL to the teacher, mean total variation)")
    rows = [
        [
            "*" if trial.chosen else "",
            " ".join([trial.codec["name"], *(f"{k}={v}" for k, v in trial.codec.items() if k != "name")]),
            trial.item_bytes,
            human_bytes(trial.bytes),
            *(_error(trial.kl[t]) for t in temperatures),
            *(_error(trial.tv[t]) for t in temperatures),
        ]
        for trial in target.codecs
    ]
    header = ["", "codec", "bytes each", "in all"]
    print_table(rows, [*header, *(f"KL T={t}" for t in temperatures), *(f"TV T={t}" for t in temperatures)])


def _error(error: float | None) -> str:
    return "unbounded" if error is None else f"{error:.1e}" if error else "< 2e-6"


def describe(target: Any) -> None:
    """Print what a target is, how far from its teacher, and who that is."""
    task, stats, declaration = target.task, target.stats, target.provenance["declaration"]
    values = _describe_values(task)
    settings = (f"{k}={v}" for k, v in declaration["codec"].items() if k != "name")
    codec = " ".join([declaration["codec"]["name"], *settings])
    click.echo(f"\n{target.name}: {task.kind} {list(task.shape)}, {values}, {codec}, {target.format}")
    positions = f", {stats['positions']:,} positions" if "positions" in stats else ""
    click.echo(f"  {stats['rows']:,} rows, {stats['valid']:,} with an answer{positions}, {human_bytes(stats['bytes'])}")
    if stats.get("count"):
        click.echo(
            f"  values {stats['min']:.4g} to {stats['max']:.4g}, mean {stats['mean']:.4g}, std {stats['std']:.4g}"
        )
    if target.errors is not None:
        _describe_errors(target.errors, {"row": "rows", "list": "positions", "map": "places"}[task.traits.layout])
    for what, value in declaration["teacher"].items():
        click.echo(f"  teacher {what}: {value}")
    click.echo(f"  versions: {', '.join(f'{k} {v}' for k, v in target.provenance['versions'].items())}")


def _describe_values(task: Any) -> str:
    """Return what a task's numbers are, in words."""
    kind = f"{task.value_kind or 'values'}{' (sigmoid)' if task.activation == 'sigmoid' else ''}"
    known = "" if task.known is None else f" of {len(task.known):,} of {task.space:,} classes"
    parts = [f"{part} {task.boxes}" if part == "boxes" else part for part in task.parts]
    return ", ".join([f"{kind}{known}{' and the rest' if task.dustbin else ''}", *parts])


def _describe_errors(errors: Any, unit: str) -> None:
    if errors.wide:
        click.echo(f"  {errors.wide:,} {unit} have logits more than 60 nats apart")
    if not errors.rows:
        return
    click.echo(f"  off the teacher, over {errors.rows:,} {unit}, at most (on average):")
    for temperature in SHOWN:
        found = errors.at.get(temperature, {})
        shown = (f"{title} {_extent(*found[name])}" for name, title in MEASURES.items() if name in found)
        click.echo(f"    T = {temperature:4s} {'   '.join(shown)}".rstrip())


def _extent(largest: float | None, mean: float | None) -> str:
    if largest is None or mean is None:
        return "unbounded          "
    largest_text, mean_text = (f"{error:.1e}" if error else "below 2e-6" for error in (largest, mean))
    return largest_text if largest == 0 else f"{largest_text} ({mean_text})"
