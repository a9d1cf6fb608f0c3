"""From a transfer set to fragments. Fragments are planned once and kept."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.arrays import Array
from softcache.builder.prepare.inventory import Inventory
from softcache.errors import AlignmentError, IncompatibleTarget, counted, name_some
from softcache.store.files import Files
from softcache.store.plan import Fragment, Plan, empty_plan, extend_plan, extensions, read_plan
from softcache.store.writer import Writer
from softcache.transfer import Scan, TransferSet


@dataclass(frozen=True, eq=False)
class Work:
    """The plan in force, and what of it lies in this transfer set.

    Attributes:
        plan: all fragments in force.
        positions: for each fragment to build, the positions of its samples in the transfer set, int64 [samples].
        changed: by fragment, the ids of samples whose content has changed.
    """

    plan: Plan
    positions: dict[int, Array]
    changed: dict[int, pa.Array]


@dataclass(frozen=True, eq=False)
class _Placed:
    """A fragment, and the positions of its samples in the transfer set."""

    fragment: Fragment
    positions: Array


def plan_fragments(
    files: Files,
    inventory: Inventory,
    transfer_set: TransferSet,
    scan: Scan,
    fragment_rows: int,
    views: int = 1,
    *,
    write: bool = True,
) -> Work:
    """Plan the fragments of a transfer set, with the first `views` of each sample, on top of the committed plan.

    Known samples keep their fragments. Changed samples give their fragment another keys hash. New samples get new
    fragments, cut as an unfinished build cut them if there was one. Further views of known samples get fragments of
    their own; fragments beyond the first `views` stay as they are. With `write` false nothing is written.

    Raises AlignmentError where the cache and the transfer set contradict each other, IncompatibleTarget where the
    content columns differ.
    """
    head = inventory.plan_head
    plan = empty_plan(transfer_set.content) if head is None else read_plan(files, head)
    _check_compatible(plan, transfer_set, scan)
    known, changed = _known_fragments(plan, transfer_set, scan)
    number = max(plan.fragments, default=-1) + 1
    unfinished = _unfinished_plans(files, plan, inventory.condemned)
    new = _new_fragments(unfinished, transfer_set, scan, known, fragment_rows, views, number)
    further = _further_views([*known, *new], views, number + len(new))
    placed = {p.fragment.number: p for p in (*known, *new, *further)}
    written = {n: p.fragment for n, p in placed.items() if p.fragment is not plan.fragments.get(n)}
    if written and write:
        plan = extend_plan(Writer(files, inventory.epoch), plan, list(written.values()))
    else:
        plan = Plan(plan.head, plan.content, plan.fragments | written)
    wanted = sorted(n for n, p in placed.items() if p.fragment.first_view < views or n in written)
    return Work(plan, {n: placed[n].positions for n in wanted}, changed)


def _check_compatible(plan: Plan, transfer_set: TransferSet, scan: Scan) -> None:
    if set(plan.content) != set(transfer_set.content):
        raise IncompatibleTarget(
            f"the cache's content hashes cover {', '.join(sorted(plan.content))}; this recipe's teachers read "
            f"{', '.join(sorted(transfer_set.content))}: set transfer_set.content to the cache's columns if it "
            "reads no others, or build another cache"
        )
    if plan.id_type is not None and plan.id_type != scan.sample_ids.type:
        column = f"id {transfer_set.id!r}"
        raise AlignmentError(f"{column}: {scan.sample_ids.type} ids; the cache has {plan.id_type} ids")


def _known_fragments(plan: Plan, transfer_set: TransferSet, scan: Scan) -> tuple[list[_Placed], dict[int, pa.Array]]:
    """Return the plan's fragments that are in the transfer set, with its contents, and the samples that changed."""
    fragments = list(plan.fragments.values())
    if not fragments:
        return [], {}
    found = pc.index_in(pa.concat_arrays([f.sample_ids for f in fragments]), scan.sample_ids)
    placed: list[_Placed] = []
    changed: dict[int, pa.Array] = {}
    begin = 0
    for fragment in fragments:
        count = len(fragment.sample_ids)
        positions = _positions(fragment, found.slice(begin, count), transfer_set)
        begin += count
        if positions is None:
            continue
        contents = scan.contents[positions]
        differs = (contents != fragment.contents).any(1)
        if differs.any():
            changed[fragment.number] = fragment.sample_ids.filter(pa.array(differs))
            fragment = _with_contents(fragment, contents)
        placed.append(_Placed(fragment, positions))
    return placed, changed


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


def _with_contents(fragment: Fragment, contents: Array) -> Fragment:
    """Return a fragment with other content hashes, and therefore another keys hash."""
    return Fragment.of(
        fragment.number,
        fragment.split,
        fragment.sample_ids,
        contents,
        first_view=fragment.first_view,
        views=fragment.views,
    )


def _unfinished_plans(files: Files, plan: Plan, condemned: Collection[str]) -> Iterator[list[Fragment]]:
    """Yield the fragments that each unfinished build has planned on top of `plan`."""
    for head in extensions(files, plan.head, condemned):
        yield [f for number, f in read_plan(files, head).fragments.items() if number not in plan.fragments]


def _new_fragments(
    unfinished: Iterable[list[Fragment]],
    transfer_set: TransferSet,
    scan: Scan,
    known: list[_Placed],
    fragment_rows: int,
    views: int,
    first_number: int,
) -> list[_Placed]:
    """Return fragments of the samples that no known fragment has."""
    is_known = np.zeros(len(scan.sample_ids), np.bool_)
    for placed in known:
        is_known[placed.positions] = True
    new = np.flatnonzero(~is_known)
    return [
        _Placed(Fragment.of(number, transfer_set.split, *scan.samples(positions), views=end), positions)
        for number, (positions, end) in enumerate(_cuts(unfinished, scan, new, fragment_rows, views), first_number)
    ]


def _cuts(
    unfinished: Iterable[list[Fragment]], scan: Scan, new: Array, fragment_rows: int, views: int
) -> Iterator[tuple[Array, int]]:
    """Yield the positions of each new fragment's samples, and its number of views.

    Both are as an unfinished build planned them if there was one.
    """
    if not len(new):
        return
    sizes: Iterator[int] = itertools.repeat(max(fragment_rows // views, 1))
    end = views
    wanted = scan.sample_ids.take(pa.array(new))
    for planned in unfinished:
        first = [f for f in planned if f.first_view == 0]
        ids = [f.sample_ids for f in first]
        if ids and ids[0].type == wanted.type and pa.concat_arrays(ids).equals(wanted):
            if first[0].views <= views:
                sizes, end = iter([len(i) for i in ids]), first[0].views
            break
    begin = 0
    while begin < len(new):
        size = next(sizes)
        yield new[begin : begin + size], end
        begin += size


def _further_views(placed: list[_Placed], views: int, first_number: int) -> list[_Placed]:
    """Return fragments of the views, up to `views`, that no fragment with the same samples has."""
    latest: dict[int, _Placed] = {}
    ends: dict[int, int] = {}
    for one in placed:
        group, end = int(one.positions[0]), one.fragment.first_view + one.fragment.views
        latest[group], ends[group] = one, max(end, ends.get(group, 0))
    lacking = [(one, ends[group]) for group, one in latest.items() if ends[group] < views]
    return [
        _Placed(_next_views(one.fragment, number, end, views), one.positions)
        for number, (one, end) in enumerate(lacking, first_number)
    ]


def _next_views(fragment: Fragment, number: int, first: int, end: int) -> Fragment:
    """Return a fragment of the same samples, with the views from `first` to before `end`."""
    return Fragment.of(
        number, fragment.split, fragment.sample_ids, fragment.contents, first_view=first, views=end - first
    )
