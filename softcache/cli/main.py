"""The `softcache` command and its subcommands."""

from __future__ import annotations

import sys

import click

import softcache
from softcache.cli.describing import describe, describe_views, print_candidates, print_codecs, print_hygiene
from softcache.cli.output import human_bytes, json_option, print_json, print_table

RECIPE = click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE | ~KEY]...")
OUTPUT = click.option("-o", "--output", required=True, metavar="DIR", help="Folder or fsspec URL of the cache.")
LIMIT = click.option("--limit", type=click.IntRange(min=1), help="Take only the first N samples.")
CACHE = click.argument("cache", metavar="DIR")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="softcache")
def main() -> None:
    """Run teachers once, keep what they said, train students at any temperature.

    Exit codes: 0 done, 1 failed or mismatch, 2 wrong usage or recipe, 3 incomplete but resumable, 4 incompatible, 5
    storage or credentials.
    """


@main.command()
@RECIPE
@OVERRIDES
@OUTPUT
@LIMIT
@json_option
def build(recipe: str, overrides: tuple[str, ...], output: str, limit: int | None, as_json: bool) -> None:
    """Run a recipe's teachers and commit their answers. Run again, it goes on where it stopped.

    Example: softcache build recipes/digits/recipe.yaml build.batch_size=128 -o runs/digits
    """
    summary = softcache.build(recipe, output, overrides, limit=limit, progress=True)
    if as_json:
        print_json(summary.to_json())
        return
    rows = [[t.name, t.rows, t.valid, t.bytes, t.bytes_per_row, t.accuracy] for t in summary.targets]
    print_table(rows, ["target", "rows", "valid", "bytes", "bytes/row", "accuracy"])
    done = "nothing was left to do" if summary.up_to_date else f"commit {summary.commit}"
    click.echo(f"{done}: {summary.answered:,} samples answered in {summary.seconds:.1f} s")
    click.echo(summary.path)


@main.command()
@RECIPE
@OVERRIDES
@OUTPUT
@LIMIT
@json_option
def plan(recipe: str, overrides: tuple[str, ...], output: str, limit: int | None, as_json: bool) -> None:
    """Say what a build would do and cost, from a trial on some samples, and what other codecs would. Writes nothing.

    Example: softcache plan recipes/digits/recipe.yaml -o runs/digits
    """
    forecast = softcache.plan(recipe, output, overrides, limit=limit)
    if as_json:
        print_json(forecast.to_json())
        return
    print_table(
        [[t.name, t.rows, t.fragments, t.bytes] for t in forecast.targets], ["left to do", "rows", "fragments", "bytes"]
    )
    for target in forecast.targets:
        if target.codecs:
            print_codecs(target)
    free = "no limit known" if forecast.free_bytes is None else f"{human_bytes(forecast.free_bytes)} free"
    click.echo(
        f"{forecast.samples:,} samples, {forecast.fragments:,} fragments, about {human_bytes(forecast.bytes)} ({free})"
    )
    click.echo(f"teachers: about {forecast.seconds:.1f} s")
    print_hygiene(forecast.hygiene)
    click.echo(forecast.path)


@main.command()
@RECIPE
@OVERRIDES
@LIMIT
@json_option
def validate(recipe: str, overrides: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """Check a recipe and look at its samples, without running a teacher. Exits with 1 where a build would stop.

    Example: softcache validate recipes/digits/recipe.yaml
    """
    found = softcache.validate(recipe, overrides, limit=limit, progress=True)
    if as_json:
        print_json(found.to_json())
    else:
        print_hygiene(found.hygiene)
        verdict = "valid" if found.buildable else "a build would stop"
        click.echo(f"{verdict}; targets: {', '.join(found.targets)}")
        click.echo(recipe)
    if not found.buildable:
        sys.exit(1)


@main.command()
@RECIPE
@OVERRIDES
@click.option("--limit", type=click.IntRange(min=1), default=10_000, show_default=True, help="At most N samples.")
@json_option
def evaluate(recipe: str, overrides: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Compare a recipe's teachers on labelled samples before anything is built.

    Example: softcache evaluate recipes/digits/recipe.yaml --limit 500
    """
    found = softcache.evaluate(recipe, overrides, limit=limit, progress=True)
    if as_json:
        print_json(found.to_json())
        return
    print_candidates(found)
    click.echo(recipe)


@main.command()
@click.argument("path", default="recipe.yaml", type=click.Path())
@json_option
def init(path: str, as_json: bool) -> None:
    """Write a commented recipe to PATH (recipe.yaml).

    Example: softcache init my/recipe.yaml
    """
    written = softcache.init(path)
    if as_json:
        print_json({"path": str(written)})
    else:
        click.echo(written)


@main.command()
@CACHE
@json_option
def status(cache: str, as_json: bool) -> None:
    """Say how far a cache is. Exits with 3 while a build is unfinished.

    Example: softcache status runs/digits
    """
    found = softcache.status(cache)
    if as_json:
        print_json(found.to_json())
    else:
        committed = f"commit {found.commit}, {found.rows:,} rows" if found.commit else "nothing committed yet"
        click.echo(f"{committed}; targets: {', '.join(found.targets) or 'none'}")
        if not found.complete:
            click.echo(
                f"unfinished: {found.pending_shards:,} shards and {found.pending_fragments:,} fragments beyond it"
            )
        click.echo(found.path)
    if not found.complete:
        sys.exit(3)


@main.command()
@CACHE
@json_option
def info(cache: str, as_json: bool) -> None:
    """Describe a cache: its targets, where they come from, their statistics.

    Example: softcache info runs/digits
    """
    found = softcache.info(cache)
    if as_json:
        print_json(found.to_json())
        return
    commit = found.commit
    click.echo(
        f"commit {commit.number}, {commit.created}: {commit.rows:,} rows, {commit.id_type} ids, splits {commit.splits}"
    )
    if commit.augmentation is not None:
        describe_views(commit.views, commit.augmentation)
    for target in found.targets.values():
        describe(target)
    click.echo(found.path)


@main.command()
@CACHE
@click.option("--level", type=click.Choice(["quick", "full"]), default="full", show_default=True)
@json_option
def verify(cache: str, level: str, as_json: bool) -> None:
    """Check that a cache is what its commits say. Exits with 1 if it is not.

    quick reads the commits and compares sizes; full reads every byte. Example: softcache verify runs/digits
    """
    result = softcache.verify(cache, level)
    if as_json:
        print_json(result.to_json())
    else:
        for problem in result.problems:
            click.echo(f"{problem.path or result.path}: {problem.what}", err=True)
        verdict = "no problems" if result.ok else f"{len(result.problems):,} problems"
        click.echo(
            f"{verdict}: {result.files:,} files, {human_bytes(result.bytes)}, commit {result.commit}, level {level}"
        )
        click.echo(result.path)
    if not result.ok:
        sys.exit(1)


@main.command()
@CACHE
@click.option("--yes", is_flag=True, help="Delete. Without it, only say what would be deleted.")
@click.option("--abandon", is_flag=True, help="Also give up what unfinished builds have done.")
@click.option(
    "--min-age",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    help="Leave files younger than so many hours.",
)
@json_option
def gc(cache: str, yes: bool, abandon: bool, min_age: float, as_json: bool) -> None:
    """List, or with --yes delete, files that no commit and no unfinished build needs.

    Example: softcache gc runs/digits --yes
    """
    found = softcache.gc(cache, delete=yes, abandon=abandon, min_age_hours=min_age)
    if as_json:
        print_json(found.to_json())
        return
    for item in found.files:
        click.echo(f"{item.path}  {human_bytes(item.bytes)}  {item.why}")
    done = "deleted" if yes else "to delete (with --yes)"
    click.echo(f"{len(found.files):,} files, {human_bytes(sum(g.bytes for g in found.files))} {done}")
    click.echo(found.path)


@main.command()
@CACHE
@click.option("--to", type=click.Choice(["parquet"]), default="parquet", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder for the files.")
@json_option
def export(cache: str, to: str, output: str, as_json: bool) -> None:
    """Write the committed rows of every target to Parquet files.

    Example: softcache export runs/digits --to parquet -o exported/digits
    """
    written = softcache.export(cache, output, to)
    if as_json:
        print_json({"path": output, "files": [vars(w) for w in written]})
        return
    print_table([[w.path, w.rows, w.bytes] for w in written], ["file", "rows", "bytes"])
    click.echo(output)
