"""The `softcache` command and its subcommands."""

from __future__ import annotations

import sys

import click

import softcache
from softcache.cli.describing import describe, describe_views, print_candidates, print_codecs, print_hygiene
from softcache.cli.output import human_bytes, json_option, print_json, print_table, say
from softcache.errors import counted

RECIPE = click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE | ~KEY]...")
OUTPUT = click.option("-o", "--output", required=True, metavar="CACHE", help="Folder or fsspec URL of the cache.")
LIMIT = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use only the first N samples.")
CACHE = click.argument("cache", metavar="CACHE")


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


@main.command()
@CACHE
@json_option
def status(cache: str, as_json: bool) -> None:
    """Show what is committed and what is unfinished.

    Exits with 3 while a build is unfinished.

    \b
    Example: softcache status runs/digits
    """
    found = softcache.status(cache)
    if as_json:
        print_json(found.to_json())
    else:
        committed = f"commit {found.commit}, {found.rows:,} rows" if found.commit else "nothing committed yet"
        say(f"{committed}; targets: {', '.join(found.targets) or 'none'}")
        if not found.complete:
            say(
                f"unfinished build: {counted(found.pending_shards, 'shard')} and "
                f"{counted(found.pending_fragments, 'fragment')} not committed yet"
            )
        say(found.path)
    if not found.complete:
        sys.exit(3)


@main.command()
@CACHE
@json_option
def info(cache: str, as_json: bool) -> None:
    """Describe a cache: its targets, their origin and statistics.

    \b
    Example: softcache info runs/digits
    """
    found = softcache.info(cache)
    if as_json:
        print_json(found.to_json())
        return
    commit = found.commit
    splits = ", ".join(f"{name} {rows:,}" for name, rows in commit.splits.items())
    say(
        f"commit {commit.number}, {commit.created}: {counted(commit.rows, 'row')}, {commit.id_type} ids, "
        f"rows by split: {splits}"
    )
    if commit.augmentation is not None:
        describe_views(commit.views, commit.augmentation)
    for target in found.targets.values():
        describe(target)
    say(found.path)


@main.command()
@CACHE
@click.option(
    "--level",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="quick reads the commits and compares file sizes; full reads every byte.",
)
@json_option
def verify(cache: str, level: str, as_json: bool) -> None:
    """Check a cache's files against its commits.

    Exits with 1 if it finds problems.

    \b
    Example: softcache verify runs/digits
    """
    result = softcache.verify(cache, level)
    if as_json:
        print_json(result.to_json())
    else:
        for problem in result.problems:
            say(f"{problem.path or result.path}: {problem.what}", err=True)
        verdict = "no problems" if result.ok else counted(len(result.problems), "problem")
        say(
            f"{verdict}: {counted(result.files, 'file')}, {human_bytes(result.bytes)}, commit {result.commit}, "
            f"level {level}"
        )
        say(result.path)
    if not result.ok:
        sys.exit(1)


@main.command()
@CACHE
@click.option("--yes", is_flag=True, help="Delete the files. Without it, they are only listed.")
@click.option("--abandon", is_flag=True, help="Include the work of unfinished builds.")
@click.option(
    "--min-age",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Keep files younger than this many hours.",
)
@json_option
def gc(cache: str, yes: bool, abandon: bool, min_age: float, as_json: bool) -> None:
    """List files that no commit or build needs; --yes deletes them.

    Unfinished builds keep their files unless you give them up with --abandon.

    \b
    Example: softcache gc runs/digits --yes
    """
    found = softcache.gc(cache, delete=yes, abandon=abandon, min_age_hours=min_age)
    if as_json:
        print_json(found.to_json())
        return
    for item in found.files:
        say(f"{item.path}  {human_bytes(item.bytes)}  {item.why}")
    done = "deleted" if yes else "to delete; run again with --yes to delete" if found.files else "to delete"
    say(f"{counted(len(found.files), 'file')}, {human_bytes(sum(g.bytes for g in found.files))} {done}")
    say(found.path)


@main.command()
@CACHE
@click.option("--to", type=click.Choice(["parquet"]), default="parquet", show_default=True, help="File format.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the files.")
@json_option
def export(cache: str, to: str, output: str, as_json: bool) -> None:
    """Write every target's committed rows to Parquet files.

    \b
    Example: softcache export runs/digits --to parquet -o exported/digits
    """
    written = softcache.export(cache, output, to)
    if as_json:
        print_json({"path": output, "files": [vars(w) for w in written]})
        return
    print_table([[w.path, w.rows, w.bytes] for w in written], ["file", "rows", "bytes"])
    say(output)
