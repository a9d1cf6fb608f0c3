"""The `softcache` command, and its subcommands that work on a recipe."""

from __future__ import annotations

import sys

import click

import softcache
from softcache.cli.caches import CACHE_COMMANDS
from softcache.cli.describing import print_candidates, print_codecs, print_hygiene
from softcache.cli.output import human_bytes, json_option, print_json, print_table, say
from softcache.errors import counted

RECIPE = click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE | ~KEY]...")
OUTPUT = click.option("-o", "--output", required=True, metavar="CACHE", help="Folder or fsspec URL of the cache.")
LIMIT = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use only the first N samples.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="softcache")
def main() -> None:
    """Run teachers once, store their answers, and train students at any temperature.

    RECIPE is a YAML file; KEY=VALUE sets a key of it, and ~KEY removes one. CACHE is a folder or an fsspec URL.

    \b
    Exit codes:
      0  success
      1  failure, or a check that found problems
      2  wrong usage, or a mistake in the recipe
      3  incomplete: run the same build again to continue it
      4  incompatible with the cache, or with this version of softcache
      5  storage or credentials
    """


@main.command()
@RECIPE
@OVERRIDES
@OUTPUT
@LIMIT
@json_option
def build(recipe: str, overrides: tuple[str, ...], output: str, limit: int | None, as_json: bool) -> None:
    """Run a recipe's teachers and store their answers.

    If a build is interrupted, the same command continues where it stopped.

    \b
    Example: softcache build recipes/digits/recipe.yaml build.batch_size=128 -o runs/digits
    """
    summary = softcache.build(recipe, output, overrides, limit=limit, progress=True)
    if as_json:
        print_json(summary.to_json())
        return
    rows = [[t.name, t.rows, t.valid, t.bytes, t.bytes_per_row, t.accuracy] for t in summary.targets]
    print_table(rows, ["target", "rows", "valid", "bytes", "bytes/row", "accuracy"])
    done = "nothing left to do" if summary.up_to_date else f"commit {summary.commit}"
    say(f"{done}: teachers answered {counted(summary.answered, 'sample')} in {summary.seconds:.1f} s")
    say(summary.path)


@main.command()
@RECIPE
@OVERRIDES
@OUTPUT
@LIMIT
@json_option
def plan(recipe: str, overrides: tuple[str, ...], output: str, limit: int | None, as_json: bool) -> None:
    """Forecast what a build would do and cost. Writes nothing.

    Tries each teacher on a few samples, and other codecs on a few of its answers.

    \b
    Example: softcache plan recipes/digits/recipe.yaml -o runs/digits
    """
    forecast = softcache.plan(recipe, output, overrides, limit=limit)
    if as_json:
        print_json(forecast.to_json())
        return
    print_table(
        [[t.name, t.rows, t.fragments, t.bytes] for t in forecast.targets], ["to build", "rows", "fragments", "bytes"]
    )
    for target in forecast.targets:
        if target.codecs:
            print_codecs(target)
    free = "free space unknown" if forecast.free_bytes is None else f"{human_bytes(forecast.free_bytes)} free"
    say(
        f"\n{counted(forecast.samples, 'sample')} in {counted(forecast.fragments, 'fragment')}, "
        f"about {human_bytes(forecast.bytes)} to write ({free})"
    )
    say(f"teachers will run for about {forecast.seconds:.1f} s")
    print_hygiene(forecast.hygiene)
    say(forecast.path)


@main.command()
@RECIPE
@OVERRIDES
@LIMIT
@json_option
def validate(recipe: str, overrides: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """Check a recipe and its samples. Runs no teacher.

    Exits with 1 if a build would stop.

    \b
    Example: softcache validate recipes/digits/recipe.yaml
    """
    found = softcache.validate(recipe, overrides, limit=limit, progress=True)
    if as_json:
        print_json(found.to_json())
    else:
        print_hygiene(found.hygiene)
        verdict = "the recipe is valid" if found.buildable else "a build would stop at these samples"
        say(f"{verdict}; targets: {', '.join(found.targets)}")
        say(recipe)
    if not found.buildable:
        sys.exit(1)


@main.command()
@RECIPE
@OVERRIDES
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Use at most N samples, spread evenly over the transfer set.",
)
@json_option
def evaluate(recipe: str, overrides: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Compare a recipe's teachers on labelled samples. Builds nothing.

    \b
    Example: softcache evaluate recipes/digits/recipe.yaml --limit 500
    """
    found = softcache.evaluate(recipe, overrides, limit=limit, progress=True)
    if as_json:
        print_json(found.to_json())
        return
    print_candidates(found)
    say(recipe)


@main.command()
@click.argument("path", default="recipe.yaml", type=click.Path())
@json_option
def init(path: str, as_json: bool) -> None:
    """Write a commented example recipe to PATH (default: recipe.yaml).

    \b
    Example: softcache init my/recipe.yaml
    """
    written = softcache.init(path)
    if as_json:
        print_json({"path": str(written)})
    else:
        say(str(written))


for command in CACHE_COMMANDS:
    main.add_command(command)
