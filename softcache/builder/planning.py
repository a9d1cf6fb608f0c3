"""From a transfer set to fragments. Fragments are planned once and kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.builder.targets import check_labels
from softcache.errors import (
    AlignmentError,
    IncompatibleTarget,
    RecipeError,
    SoftcacheError,
    TransferSetError,
    counted,
    name_some,
)
from softcache.recipe import DatasetSource as DatasetRecipe
from softcache.recipe import ImagesSource, PythonSource, Recipe, TransferSetRecipe
from softcache.store.files import Files
from softcache.store.plan import Fragment, Plan, empty_plan, extend_plan, extensions, read_plan
from softcache.teachers import Adapter
from softcache.transfer import CONTENT_HASH, Scan, Source, TransferSet, from_object
from softcache.transfer.python import load_callable
from softcache.transfer.sources import ImageFolder, open_dataset, open_files
from softcache.transfer.subsets import balanced, where

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Work:
    """The plan in force, and for each of its fragments in this transfer set the positions of its samples there.

    `changed` are the ids of samples that are not what they were, by fragment.
    """

    plan: Plan
    positions: dict[int, Array]
    changed: dict[int, pa.Array]


def open_transfer_set(recipe: Recipe, limit: int | None = None) -> TransferSet:
    """Open a recipe's transfer set. Raises RecipeError or TransferSetError."""
    described = recipe.transfer_set
    source = _subset(_open_source(recipe), described)
    apart = {described.id, *described.keep}
    read = {name: reads(teacher, source.columns, apart) for name, teacher in recipe.teachers.items()}
    check_labels(recipe, source.labels)
    content = described.content or sorted({column for columns in read.values() for column in columns})
    for name, columns in read.items():
        unseen = sorted(set(columns) - set(content))
        if unseen:
            raise RecipeError(
                f"transfer_set.content: teacher {name} reads {', '.join(unseen)}, which is not in it; "
                "a change there would go unnoticed"
            )
    column = None if recipe.augmentation is None else recipe.augmentation.column
    for name, columns in read.items():
        if column is not None and column not in columns:
            raise RecipeError(f"augmentation.column: teacher {name} does not read {column!r}, but {', '.join(columns)}")
    return TransferSet(source, described.id, tuple(described.keep), tuple(content), described.split, limit)


def reads(teacher: Adapter, columns: tuple[str, ...], apart: set[str]) -> list[str]:
    """Return the columns that a teacher reads: those it lists, or all but the id and the kept ones."""
    return list(teacher.columns) if teacher.columns is not None else [c for c in columns if c not in apart]


def teacher_reads(recipe: Recipe, name: str, transfer_set: TransferSet) -> list[str]:
    """Return the columns that a teacher of the recipe reads."""
    return reads(recipe.teachers[name], transfer_set.source.columns, {transfer_set.id, *transfer_set.keep})


def plan_work(
    files: Files,
    head: str | None,
    transfer_set: TransferSet,
    scan: Scan,
    fragment_rows: int,
    views: int = 1,
    *,
    write: bool = True,
) -> Work:
    """Plan the fragments of a transfer set, with the first `views` of each sample, on top of the committed plan `head`.

    Known samples keep their fragments, changed ones give them another keys hash, new ones get new fragments, cut as an
    unfinished build cut them if there was one; further views of known samples get fragments of their own. Fragments
    beyond the first `views` are left as they are. Raises AlignmentError where the cache and the transfer set contradict
    each other, IncompatibleTarget where the content columns differ. With `write` false nothing is written.
    """
    plan = empty_plan(transfer_set.content) if head is None else read_plan(files, head)
    _check_compatible(plan, transfer_set, scan)
    positions = _known_positions(plan, transfer_set, scan)
    known = np.zeros(len(scan.sample_ids), np.bool_)
    fragments: dict[int, Fragment] = {}
    changed: dict[int, pa.Array] = {}
    for number, rows in positions.items():
        known[rows] = True
        fragment = plan.fragments[number]
        other = (scan.contents[rows] != fragment.contents).any(1)
        fragments[number] = replace_contents(fragment, scan.contents[rows]) if other.any() else fragment
        if other.any():
            changed[number] = fragment.sample_ids.filter(pa.array(other))
    number = max(plan.fragments, default=-1) + 1
    for rows, had in _new_samples(files, plan, scan, np.flatnonzero(~known), fragment_rows, views):
        fragments[number] = Fragment.of(number, transfer_set.split, *scan.samples(rows), views=had)
        positions[number] = rows
        number += 1
    for last, end in _last_views(fragments, positions):
        if end < views:
            fragments[number] = Fragment.of(
                number, last.split, last.sample_ids, last.contents, first_view=end, views=views - end
            )
            positions[number] = positions[last.number]
            number += 1
    written = {n: f for n, f in fragments.items() if f is not plan.fragments.get(n)}
    if written and write:
        plan = extend_plan(files, plan, list(written.values()))
    else:
        plan = Plan(plan.head, plan.content, plan.fragments | written)
    wanted = [n for n, f in fragments.items() if f.first_view < views or n in written]
    return Work(plan, {n: positions[n] for n in sorted(wanted)}, changed)


def replace_contents(fragment: Fragment, contents: Array) -> Fragment:
    """Return a fragment with other content hashes of its samples, and thus another keys hash."""
    return Fragment.of(
        fragment.number,
        fragment.split,
        fragment.sample_ids,
        contents,
        first_view=fragment.first_view,
        views=fragment.views,
    )


def _last_views(fragments: dict[int, Fragment], positions: dict[int, Array]) -> list[tuple[Fragment, int]]:
    """Return of each group of fragments with the same samples one, and up to which view they go."""
    ends: dict[int, tuple[Fragment, int]] = {}
    for number, fragment in fragments.items():
        first, end = int(positions[number][0]), fragment.first_view + fragment.views
        ends[first] = (fragment, max(end, ends[first][1] if first in ends else 0))
    return list(ends.values())


def _subset(source: Source, described: TransferSetRecipe) -> Source:
    """Return the samples of a source that a recipe takes."""
    if described.where is not None:
        source = where(source, described.where)
    if described.balance is not None:
        source = balanced(source, described.balance.by, described.balance.each)
    return source


def _open_source(recipe: Recipe) -> Source:
    source = recipe.transfer_set.source
    if isinstance(source, PythonSource):
        make = load_callable(source.callable)
        try:
            return from_object(make(**source.arguments))
        except SoftcacheError:
            raise
        except Exception as e:
            raise TransferSetError(f"{source.callable} raised {type(e).__name__}: {e}") from e
    if isinstance(source, DatasetRecipe):
        local = recipe.path(source.path)
        return open_dataset(str(local) if local.exists() else source.path, source.name, source.split)
    if isinstance(source, ImagesSource):
        return ImageFolder(recipe.path(source.folder))
    return open_files(source.paths, recipe.folder)


def _check_compatible(plan: Plan, transfer_set: TransferSet, scan: Scan) -> None:
    if set(plan.content) != set(transfer_set.content):
        raise IncompatibleTarget(
            f"the cache's content hashes cover {', '.join(sorted(plan.content))}; this recipe's teachers read "
            f"{', '.join(sorted(transfer_set.content))}: set transfer_set.content to the cache's columns if it "
            "reads no others, or build another cache"
        )
    if plan.id_type is not None and plan.id_type != scan.sample_ids.type:
        column = "content hashes" if transfer_set.id == CONTENT_HASH else f"id column {transfer_set.id!r}"
        raise AlignmentError(f"{column}: {scan.sample_ids.type} ids; the cache has {plan.id_type} ids")


def _known_positions(plan: Plan, transfer_set: TransferSet, scan: Scan) -> dict[int, Array]:
    """Return where the samples of each fragment are that is in the transfer set."""
    fragments = list(plan.fragments.values())
    if not fragments:
        return {}
    found = pc.index_in(pa.concat_arrays([f.sample_ids for f in fragments]), scan.sample_ids)
    positions, begin = {}, 0
    for fragment in fragments:
        count = len(fragment.sample_ids)
        rows = _positions(fragment, found.slice(begin, count), transfer_set)
        if rows is not None:
            positions[fragment.number] = rows
        begin += count
    return positions


def _positions(fragment: Fragment, found: pa.Array, transfer_set: TransferSet) -> Array | None:
    """Return where a fragment's samples were found in the transfer set, None if none of them is there."""
    if found.null_count == len(found):
        return None
    if found.null_count:
        gone = fragment.sample_ids.filter(found.is_null())
        raise AlignmentError(
            f"fragment {fragment.number} of the cache has {counted(len(gone), 'sample')} that the transfer set lacks: "
            f"{name_some(gone.to_pylist())}; a cache only grows (was --limit lowered?)"
        )
    if fragment.split != transfer_set.split:
        raise AlignmentError(
            f"samples {name_some(fragment.sample_ids[:5].to_pylist())} are in split {fragment.split!r} of the cache "
            f"and in {transfer_set.split!r} of the recipe; a sample id belongs to one split"
        )
    return found.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _new_samples(
    files: Files, plan: Plan, scan: Scan, new: Array, fragment_rows: int, views: int
) -> Iterator[tuple[Array, int]]:
    """Yield the positions of each new fragment's samples, and how many views they have.

    Both are as an unfinished build planned them if there was one.
    """
    if not len(new):
        return
    sizes: Iterator[int] = itertools.repeat(max(fragment_rows // views, 1))
    ends = views
    wanted = scan.sample_ids.take(pa.array(new))
    for head in extensions(files, plan.head):
        planned = [f for n, f in read_plan(files, head).fragments.items() if n not in plan.fragments]
        first = [f for f in planned if f.first_view == 0]
        ids = [f.sample_ids for f in first]
        if ids and ids[0].type == wanted.type and pa.concat_arrays(ids).equals(wanted):
            if first[0].views <= views:
                sizes, ends = iter([len(i) for i in ids]), first[0].views
            break
    begin = 0
    while begin < len(new):
        size = next(sizes)
        yield new[begin : begin + size], ends
        begin += size
