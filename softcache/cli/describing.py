"""What commands print about targets, teachers and transfer sets."""

from __future__ import annotations

from typing import Any

from softcache.cli.output import human_bytes, print_table, say
from softcache.errors import counted

_FIGURES = ("teacher", "accuracy", "top-5", "F1", "NLL", "ECE", "best T", "NLL at best T", "ECE at best T")
_COSTS = ("teacher", "entropy T=1", "T=2", "T=4", "T=8", "samples/s", "parameters", "memory")
WORST, NAMED, LABELS = 3, 5, 12
SHOWN = ("0.5", "1", "2", "4", "8", "20")
MEASURES = {"tail_mass": "tail mass", "tv": "total variation", "kl": "KL"}


def print_codecs(target: Any) -> None:
    """Print the size and the error of a target in each codec that was tried; the recipe's own is marked."""
    temperatures = list(target.codecs[0].kl)
    say(
        f"\n{target.name}: codecs tried on a few answers (mean KL and mean total variation, TV, from the teacher; "
        "* marks the recipe's codec)"
    )
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
    header = ["", "codec", "bytes/item", "total"]
    print_table(rows, [*header, *(f"KL T={t}" for t in temperatures), *(f"TV T={t}" for t in temperatures)])


def print_candidates(evaluation: Any) -> None:
    """Print the metrics and the costs of teachers for each task, and the classes that each recognises least often."""
    for task in dict.fromkeys(c.task for c in evaluation.candidates):
        own = [c for c in evaluation.candidates if c.task == task]
        say(f"{task}, measured on up to {max(c.samples for c in own):,} labelled samples")
        print_table([_figures(c) for c in own], _FIGURES)
        print_table([_costs(c) for c in own], _COSTS)
        for candidate in (c for c in own if c.without_answer):
            say(f"{candidate.teacher}: {candidate.without_answer:,} labelled samples without an answer")
        for candidate in own:
            worst = sorted(candidate.metrics.recall.items(), key=lambda pair: pair[1])[:WORST]
            say(f"lowest recall of {candidate.teacher}: {', '.join(f'{c} ({r:.3f})' for c, r in worst)}")
        say("")
    for target, why in evaluation.left_out.items():
        say(f"{target} is left out: {why}")


def print_hygiene(found: Any) -> None:
    """Print what was found in a transfer set: problems, the ranges of numbers, and the labels."""
    unread = "" if found.decoded == found.samples else f", {found.decoded:,} of them decoded"
    say(f"{counted(found.samples, 'sample')}{unread}")
    _print_finding("with the same content as an earlier one", found.duplicates)
    for what, by_name in (
        ("with the same content as an earlier one, but another {}", found.contradictions),
        ("without a value in {}", found.missing),
        ("with NaN or infinity in {}", found.not_finite),
        ("whose {} is not a class", found.not_classes),
        ("that cannot be decoded ({})", found.undecodable),
    ):
        for name, finding in by_name.items():
            _print_finding(what.format(name), finding)
    for name, (low, high) in found.ranges.items():
        if name not in found.labels:
            say(f"  {name}: from {low:.6g} to {high:.6g}")
    for name, counts in found.labels.items():
        least, most = min(counts.values(), default=0), max(counts.values(), default=0)
        shown = ", ".join(f"{label}: {count:,}" for label, count in list(counts.items())[:LABELS])
        more = f", and {len(counts) - LABELS:,} more" if len(counts) > LABELS else ""
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        say(f"  {name}: {len(counts):,} labels, {each} samples each ({shown}{more})")


def _print_finding(what: str, finding: Any) -> None:
    if finding.count:
        shown = ", ".join(repr(i) for i in finding.ids[:NAMED])
        more = ", ..." if finding.count > NAMED else ""
        say(f"  {finding.count:,} {what}: {shown}{more}")


def _figures(candidate: Any) -> list[object]:
    m = candidate.metrics
    fitted = [m.fitted_temperature, m.fitted_nll, m.fitted_ece]
    return [candidate.teacher, *(_three(x) for x in (m.accuracy, m.top5, m.f1, m.nll, m.ece, *fitted))]


def _costs(candidate: Any) -> list[object]:
    speed, memory = candidate.samples_per_second, candidate.memory_bytes
    entropies = (_three(e) for e in candidate.metrics.entropy.values())
    speeds = "-" if speed is None else f"{speed:,.0f}"
    return [candidate.teacher, *entropies, speeds, candidate.parameters, "-" if memory is None else human_bytes(memory)]


def _three(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _error(error: float | None) -> str:
    return "unbounded" if error is None else f"{error:.1e}" if error else "< 2e-6"


def describe(target: Any) -> None:
    """Print what a target holds, its errors against the teacher, and where it comes from."""
    task, stats, declaration = target.task, target.stats, target.provenance["declaration"]
    values = _describe_values(task)
    settings = (f"{k}={v}" for k, v in declaration["codec"].items() if k != "name")
    codec = " ".join([declaration["codec"]["name"], *settings])
    say(f"\n{target.name}: {task.kind} {list(task.shape)}, {values}, {codec}, {target.format}")
    positions = f", {stats['positions']:,} positions" if "positions" in stats else ""
    rows = counted(stats["rows"], "row")
    say(f"  {rows}, {stats['valid']:,} with an answer{positions}, {human_bytes(stats['bytes'])}")
    if stats.get("count"):
        say(f"  values {stats['min']:.4g} to {stats['max']:.4g}, mean {stats['mean']:.4g}, std {stats['std']:.4g}")
    if target.errors is not None:
        _describe_errors(target.errors, {"row": "rows", "list": "positions", "map": "places"}[task.traits.layout])
    for what, value in declaration["teacher"].items():
        say(f"  teacher {what}: {value}")
    say(f"  versions: {', '.join(f'{k} {v}' for k, v in target.provenance['versions'].items())}")


def describe_views(views: int, augmentation: Any) -> None:
    """Print how many views the samples have, and what makes the views."""
    declared = augmentation["declaration"]
    of = "whole samples" if declared.get("column") is None else f"column {declared['column']}"
    arguments = ", ".join(f"{name}={value!r}" for name, value in declared.get("arguments", {}).items())
    say(
        f"up to {counted(views, 'view')} of each sample: {declared.get('transform')}({arguments}) of {of}, "
        f"seed {declared['seed']}"
    )
    for versions in augmentation["versions"]:
        say(f"  made with {', '.join(f'{k} {v}' for k, v in versions.items())}")


def _describe_values(task: Any) -> str:
    """Return in words what a task's numbers are."""
    kind = f"{task.value_kind or 'values'}{' (sigmoid)' if task.activation == 'sigmoid' else ''}"
    known = "" if task.known is None else f" of {len(task.known):,} of {task.space:,} classes"
    parts = [f"{part} {task.boxes}" if part == "boxes" else part for part in task.parts]
    return ", ".join([f"{kind}{known}{' and the rest' if task.dustbin else ''}", *parts])


def _describe_errors(errors: Any, unit: str) -> None:
    if errors.wide:
        say(f"  {errors.wide:,} {unit} have logits more than 60 nats apart")
    if not errors.rows:
        return
    say(f"  error against the teacher over {errors.rows:,} {unit}, at most (on average):")
    for temperature in SHOWN:
        found = errors.at.get(temperature, {})
        shown = (f"{title} {_extent(*found[name])}" for name, title in MEASURES.items() if name in found)
        say(f"    T = {temperature:4s} {'   '.join(shown)}".rstrip())


def _extent(largest: float | None, mean: float | None) -> str:
    if largest is None or mean is None:
        return "unbounded          "
    largest_text, mean_text = (f"{error:.1e}" if error else "below 2e-6" for error in (largest, mean))
    return largest_text if largest == 0 else f"{largest_text} ({mean_text})"
