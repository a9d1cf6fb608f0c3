"""The subcommands of `softcache` that work on a cache."""

from __future__ import annotations

import sys
from typing import Any

import click

import softcache
from softcache.cli.describing import describe, describe_views
from softcache.cli.output import human_bytes, json_option, print_json, print_table, say
from softcache.errors import counted

CACHE = click.argument("cache", metavar="CACHE")


@click.command()
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


@click.command()
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


@click.command()
@CACHE
@click.option(
    "--level",
    type=click.Choice(["signature", "quick", "full"]),
    help="signature checks who signed the newest commit; quick reads the commits and compares file sizes; full "
    "(the default) reads every byte.",
)
@click.option(
    "--signers",
    type=click.Path(),
    metavar="FILE",
    help="Ask for a signature of the newest commit by someone in FILE (see ALLOWED SIGNERS in `man ssh-keygen`).",
)
@click.option(
    "--recompute",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead, let the teachers of --recipe answer N random rows again, and compare the answers.",
)
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False), help="The recipe, for --recompute.")
@click.option("--seed", type=click.IntRange(min=0), help="Draw the same rows again, for --recompute.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE | ~KEY]...")
@json_option
def verify(
    cache: str,
    level: str | None,
    signers: str | None,
    recompute: int | None,
    recipe: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check a cache's files against its commits, or its answers against the teachers'.

    KEY=VALUE changes a key of --recipe. Exits with 1 if it finds problems.

    \b
    Example: softcache verify runs/digits
    Example: softcache verify runs/digits --recompute 100 --recipe recipes/digits/recipe.yaml
    """
    if recompute is not None:
        if signers is not None or level is not None:
            raise click.UsageError("--recompute compares answers: run verify once more for --level and --signers")
        _recompute(cache, recompute, recipe, overrides, seed, as_json)
        return
    if recipe is not None or overrides or seed is not None:
        raise click.UsageError("a recipe and a seed are only used with --recompute N")
    level = level or "full"
    if level == "signature":
        if signers is None:
            raise click.UsageError("--level signature needs the file of those who may sign: add --signers FILE")
        result = softcache.verify_signature(cache, signers)
    else:
        result = softcache.verify(cache, level, signers=signers)
    if as_json:
        print_json(result.to_json())
    else:
        for problem in result.problems:
            say(f"{problem.path or result.path}: {problem.what}", err=True)
        verdict = "no problems" if result.ok else counted(len(result.problems), "problem")
        read = f"{counted(result.files, 'file')}, {human_bytes(result.bytes)}, " if result.files else ""
        say(f"{verdict}: {read}commit {result.commit}, level {level}")
        if result.signers:
            say(f"signed by {', '.join(result.signers)}")
        if result.links:
            say(f"{counted(len(result.links), 'file')} behind symbolic links, the first is {result.links[0]}")
        say(result.path)
    if not result.ok:
        sys.exit(1)


def _recompute(
    cache: str, rows: int, recipe: str | None, overrides: tuple[str, ...], seed: int | None, as_json: bool
) -> None:
    """Compare stored answers with the teachers' of today, and print by how much they differ."""
    if recipe is None:
        raise click.UsageError("--recompute needs the recipe whose teachers should answer: add --recipe FILE")
    found = softcache.recompute(recipe, cache, overrides, rows=rows, seed=seed)
    if as_json:
        print_json(found.to_json())
    else:
        header = (
            "target",
            "rows",
            "largest difference",
            "sample",
            "today's answers differ by",
            "rounding explains",
            "same",
        )
        print_table([_compared(target) for target in found.targets], header)
        say(found.path)
    if not found.ok:
        sys.exit(1)


def _compared(target: Any) -> list[object]:
    figures = (target.largest, target.control, target.allowed)
    largest, control, allowed = ("no answer" if x is None else f"{x:.1e}" for x in figures)
    return [target.name, target.rows, largest, str(target.sample), control, allowed, "yes" if target.ok else "NO"]


@click.command()
@CACHE
@click.option("--key", required=True, type=click.Path(), help="An OpenSSH key, such as ~/.ssh/id_ed25519.")
@click.option("--commit", type=click.IntRange(min=1), metavar="N", help="Sign commit N instead of the newest.")
@json_option
def sign(cache: str, key: str, commit: int | None, as_json: bool) -> None:
    """Sign the newest commit, and so all that it names.

    \b
    Example: softcache sign runs/digits --key ~/.ssh/id_ed25519
    """
    path = softcache.sign(cache, key, commit=commit)
    if as_json:
        print_json({"path": cache, "signature": path})
    else:
        say(path)


@click.command()
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


@click.command()
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


@click.command()
@CACHE
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--fragment-rows", type=click.IntRange(min=1), required=True, metavar="N", help="About how many rows a shard has."
)
@json_option
def repack(cache: str, output: str, fragment_rows: int, as_json: bool) -> None:
    """Write the rows of CACHE to a new cache OUTPUT, in larger or smaller shards.

    Rows keep their numbers and their bits, and are compared with the source.

    \b
    Example: softcache repack runs/digits runs/digits-large --fragment-rows 4096
    """
    made = softcache.repack(cache, output, fragment_rows=fragment_rows)
    if as_json:
        print_json(made.to_json())
        return
    rows, before = counted(made.rows, "row"), counted(made.source_shards, "shard")
    say(f"{rows}: {before} before, now {made.shards:,} of {human_bytes(made.bytes)} together")
    say(made.path)


CACHE_COMMANDS = (status, info, verify, sign, gc, export, repack)
