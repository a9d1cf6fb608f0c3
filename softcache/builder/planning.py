"""From a transfer set to fragments. Fragments are planned once and kept."""

from __future__ import annotations

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
from softcache.recipe import ImagesSource, PythonSource, Recipe
from softcache.store.files import Files
from softcache.store.plan import Fragment, Plan, empty_plan, extend_plan, extensions, read_plan
from softcache.teachers import Adapter
from softcache.transfer import CONTENT_HASH, Scan, Source, TransferSet, from_object
from softcache.transfer.python import load_callable
from softcache.transfer.sources import ImageFolder, open_dataset, open_files

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Work:
    """The plan in force, and for each of its fragments in this transfer set the positions of its samples there."""

    plan: Plan
    positions: dict[int, Array]


def open_transfer_set(recipe: Recipe, limit: int | None = None) -> TransferSet:
    """Open a recipe's transfer set. Raises RecipeError or TransferSetError."""
    described = recipe.transfer_set
    source = _open_source(recipe)
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
    return TransferSet(source, described.id, tuple(described.keep), tuple(content), described.split, limit)


def reads(teacher: Adapter, columns: tuple[str, ...], apart: set[str]) -> list[str]:
    """Return the columns that a teacher reads: those it lists, or all but the id and the kept ones."""
    return list(teacher.columns) if teacher.columns is not None else [c for c in columns if c not in apart]


def teacher_reads(recipe: Recipe, name: str, transfer_set: TransferSet) -> list[str]:
    """Return the columns that a teacher of the recipe reads."""
    return reads(recipe.teachers[name], transfer_set.source.columns, {transfer_set.id, *transfer_set.keep})


def plan_work(
    files: Files, head: str | None, transfer_set: TransferSet, scan: Scan, fragment_rows: int, *, write: bool = True
) -> Work:
    """Plan the fragments of a transfer set on top of the committed plan `head`.

    Known samples keep their fragment, changed ones give it another keys hash, new ones get new fragments, cut as an
    unfinished build cut them if there was one. Raises AlignmentError where the cache and the transfer set contradict
    each other, IncompatibleTarget where the content columns differ. With `write` false nothing is written.
    """
    plan = empty_plan(transfer_set.content) if head is None else read_plan(files, head)
    _check_compatible(plan, transfer_set, scan)
    positions: dict[int, Array] = {}
    changed: list[Fragment] = []
    known = np.zeros(len(scan.sample_ids), np.bool_)
    for fragment in plan.fragments.values():
        found = _positions(fragment, transfer_set, scan)
        if found is None:
            continue
        known[found] = True
        positions[fragment.number] = found
        if not np.array_equal(scan.contents[found], fragment.contents):
            changed.append(
                Fragment.of(
                    fragment.number,
                    fragment.split,
                    fragment.sample_ids,
                    scan.contents[found],
                    first_view=fragment.first_view,
                    views=fragment.views,
                )
            )
    new = np.flatnonzero(~known)
    number = max(plan.fragments, default=-1) + 1
    added = []
    for rows in _cut(new, _sizes(files, plan, scan, new, fragment_rows)):
        added.append(Fragment.of(number, transfer_set.split, *scan.samples(rows)))
        positions[number] = rows
        number += 1
    if changed or added:
        if write:
            plan = extend_plan(files, plan, [*changed, *added])
        else:
            plan = Plan(plan.head, plan.content, plan.fragments | {f.number: f for f in (*changed, *added)})
    return Work(plan, dict(sorted(positions.items())))


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


def _positions(fragment: Fragment, transfer_set: TransferSet, scan: Scan) -> Array | None:
    """Return where a fragment's samples are in the transfer set, None if none of them is there."""
    found = pc.index_in(fragment.sample_ids, scan.sample_ids)
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


def _sizes(files: Files, plan: Plan, scan: Scan, new: Array, fragment_rows: int) -> list[int]:
    """Return how many samples each new fragment gets: as an unfinished build planned them, or `fragment_rows`."""
    if not len(new):
        return []
    wanted = scan.sample_ids.take(pa.array(new))
    for head in extensions(files, plan.head):
        fragments = [f for n, f in read_plan(files, head).fragments.items() if n not in plan.fragments]
        planned = [f.sample_ids for f in fragments]
        if planned and planned[0].type == wanted.type and pa.concat_arrays(planned).equals(wanted):
            return [len(ids) for ids in planned]
    full, rest = divmod(len(new), fragment_rows)
    return [fragment_rows] * full + ([rest] if rest else [])


def _cut(positions: Array, sizes: list[int]) -> list[Array]:
    return np.split(positions, np.cumsum(sizes)[:-1]) if sizes else []
