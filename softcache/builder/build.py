"""`softcache.build`: from a recipe to a commit.

1. `prepare/` reads the recipe, describes the teachers, scans the transfer set, and compares all of that with the cache.
   What is left to do is a list of units: one target's shard for one fragment each.
2. `engines/` executes the units: each teacher is loaded once (`answer/`), and every fragment that is done becomes
   shards with receipts (`publish/shards.py`).
3. `publish/commit.py` publishes one commit. If another writer was faster, the build goes back to step 1 on top of that
   writer's commit; finished work has receipts and stays.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Sequence

from softcache.builder.answer.target_tables import published_tables
from softcache.builder.engines.local import run
from softcache.builder.prepare.opened_recipe import opened_recipe
from softcache.builder.prepare.prepared import PreparedBuild, prepare, rebase
from softcache.builder.publish.commit import Outcome, Publication, publish_build
from softcache.builder.publish.summary import Summary, summarise
from softcache.builder.signals import stop_on_signals
from softcache.errors import IncompleteCache, RecipeError, StorageError
from softcache.store.marker import require_marker
from softcache.store.receipts import Receipt

LONGEST_PAUSE, MOST_DOUBLINGS = 10.0, 10  # seconds, attempts
MOST_UNSEEN = 5  # times that a storage may not list a commit which it says is there


def build(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: bool = False,
) -> Summary:
    """Run a recipe's teachers over its transfer set and commit their answers to the cache at `output`.

    Run again, it computes only what has no receipt; if nothing is left to do, it commits nothing. `overrides` are
    `KEY=VALUE` and `~KEY`; `limit` takes the first so many samples; `progress` shows a bar on stderr.

    Raises:
        RecipeError: the recipe is wrong.
        IncompatibleTarget: a target of the same name was made differently.
        IncompleteCache: stopped by Ctrl-C or SIGTERM; run it again to go on.
        CommitConflict: another writer meanwhile committed a target of the same name that was made differently.
            Everything else that other writers commit is kept, and this build's commit follows theirs.
        TransferSetError, TeacherError, CodecError, AlignmentError, StorageError: see their docstrings.

    Examples:
        >>> summary = softcache.build("recipes/digits/recipe.yaml", "runs/digits")
        >>> [target.name for target in summary.targets]
        ['digit@a', 'digit@b', 'digit@c', 'embedding@a']
    """
    started = time.monotonic()
    if limit is not None and limit < 1:
        raise RecipeError(f"limit is {limit}; expected at least 1")
    with stop_on_signals() as stop, opened_recipe(recipe, overrides) as loaded:
        prepared = prepare(loaded, output, limit=limit, progress=progress, stop=stop)
        answered = unseen = 0
        for attempt in itertools.count():
            receipts, computed = run(prepared, stop, progress)
            answered += computed
            began = time.monotonic()
            outcome = commit(prepared, receipts)
            if outcome is not Outcome.OVERTAKEN:
                break
            # The more writers there are, the longer each should wait, in units of what a commit takes here.
            longest = (time.monotonic() - began) * 2 ** min(attempt, MOST_DOUBLINGS)
            if stop.wait(random.uniform(0, min(longest, LONGEST_PAUSE))):
                raise IncompleteCache("stopped while other writers commit; run the same command again to go on")
            before, prepared = prepared, rebase(prepared)
            unseen = unseen + 1 if prepared.inventory.number == before.inventory.number else 0
            if unseen > MOST_UNSEEN:
                raise StorageError(
                    f"{prepared.files.url}: commit {prepared.inventory.number + 1} is taken, but no list of commits "
                    "shows it; look at the folder commits, and run the same command again"
                )
        seconds, up_to_date = time.monotonic() - started, outcome is Outcome.UP_TO_DATE
        return summarise(prepared.files, prepared.targets, answered, seconds, up_to_date=up_to_date)


def commit(prepared: PreparedBuild, receipts: dict[str, Receipt]) -> Outcome:
    """Publish a finished build."""
    files, inventory = prepared.files, prepared.inventory
    described = prepared.recipe.transfer_set.model_dump(mode="json") | {"content": list(prepared.transfer_set.content)}
    publication = Publication(
        marker=require_marker(files),
        plan=prepared.work.plan,
        units=prepared.units,
        targets=prepared.targets,
        tables={t.name: published_tables(files, t, inventory) or {} for t in prepared.targets},
        rows=prepared.rows_declaration,
        transfer_set=described,
    )
    return publish_build(prepared.out, publication, inventory.with_receipts(receipts))
