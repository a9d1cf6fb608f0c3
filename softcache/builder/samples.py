"""The samples that teachers get: as they are, or as views that are made, recorded for `rows`, and compared."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from softcache.builder.jobs import Job
from softcache.errors import AlignmentError, AugmentationError, FormatError, name_some
from softcache.store import arrow
from softcache.store.files import Files
from softcache.store.layout import ROWS
from softcache.store.manifest import LiveShard
from softcache.store.plan import Fragment
from softcache.store.shards import Shard
from softcache.store.state import read_reference
from softcache.transfer import Scan, TransferSet
from softcache.transfer.augmentation import PARTNER, Augmentation, Parameters, kept_generators
from softcache.transfer.libraries import transform_versions, versions_here
from softcache.transfer.positions import Positions
from softcache.transfer.sources import Sample
from softcache.transfer.view_checks import CHECK_BYTES, NO_VIEW, agrees, check_of

Array = np.ndarray[Any, Any]
TRIED_ROWS, KEPT_RECORDS = 8, 4


@dataclass(frozen=True, eq=False)
class RecordedViews:
    """What `rows` holds of a fragment's views: their checks, uint8 [rows, 8], and perhaps their parameters.

    `versions` are those of the libraries that made them, and `here` what is installed of these now.
    """

    checks: Array
    parameters: list[Parameters | None] | None
    versions: dict[str, str]

    @classmethod
    def empty(cls, rows: int, *, draws: bool) -> RecordedViews:
        """Return the record of views of which none is made yet."""
        return cls(np.zeros((rows, CHECK_BYTES), np.uint8), [None] * rows if draws else None, {})

    @cached_property
    def here(self) -> dict[str, str]:
        """What is installed now of the libraries that made them."""
        return versions_here(self.versions)

    def are_those_of(self, files: Files, shard: Shard) -> bool:
        """Whether a `rows` shard records the same views: their checksums, and their parameters."""
        there = read_recorded(files, shard, self.versions)
        return np.array_equal(there.checks[:, :4], self.checks[:, :4]) and there.parameters == self.parameters


class Samples:
    """The samples of a transfer set, decoded. Made for one build."""

    def __init__(self, transfer_set: TransferSet) -> None:
        self._transfer_set = transfer_set

    def load(self, job: Job, rows: Sequence[int], columns: Sequence[str]) -> list[Sample]:
        """Return what a teacher that reads `columns` gets for rows of a fragment. Whatever the decoder raises comes."""
        return self._transfer_set.samples(job.positions[np.asarray(rows)], columns)


class AugmentedSamples(Samples):
    """Views of samples.

    Views that are recorded already are compared with what is made; the others are recorded, until the fragment's
    record is taken for `rows`. From then on `recorded` has to return it.
    """

    def __init__(
        self,
        transfer_set: TransferSet,
        augmentation: Augmentation,
        scan: Scan,
        recorded: Callable[[Fragment], RecordedViews | None],
    ) -> None:
        super().__init__(transfer_set)
        self._augmentation, self._ids = augmentation, scan.sample_ids
        self._positions = Positions(scan.sample_ids) if augmentation.mixes else None
        self._read_recorded = recorded
        self._recorded: dict[int, RecordedViews] = {}
        self._made: dict[int, RecordedViews] = {}

    def load(self, job: Job, rows: Sequence[int], columns: Sequence[str]) -> list[Sample]:
        """Return views. Raises AlignmentError where one is not as it is recorded; whatever the transform raises."""
        places, which = np.unique(np.asarray(rows) // job.fragment.views, return_inverse=True)
        decoded = self._decode(job.positions[places])
        with kept_generators():
            views = [self._view(job, row, decoded[i]) for row, i in zip(rows, which.tolist(), strict=True)]
        return [{name: view[name] for name in columns} for view in views]

    def take(self, fragment: Fragment) -> RecordedViews:
        """Return the record of a fragment of which all samples have been loaded, and forget it."""
        made = self._made.pop(fragment.number, None) or self._no_views(fragment)
        # Only now are all libraries imported that a transform or a decoder imports when it is called.
        return replace(made, versions=transform_versions())

    def record_all(self, job: Job, batch_size: int) -> RecordedViews:
        """Make all views of a fragment, for no teacher, and return their record; views that fail are left out."""
        for begin in range(0, job.fragment.rows, batch_size):
            for row in range(begin, min(begin + batch_size, job.fragment.rows)):
                try:
                    self.load(job, [row], [])
                except (AlignmentError, AugmentationError):
                    raise
                except Exception:  # noqa: BLE001 - decoders and transforms raise anything
                    continue
        return self.take(job.fragment)

    def check_replays(self, job: Job) -> None:
        """Make the first few views twice, in another order, and compare them. Raises AugmentationError if they differ.

        Samples that cannot be decoded or augmented are passed over: the build says more of them.
        """
        first: dict[int, bytes] = {}
        second: dict[int, bytes] = {}
        rows = range(min(TRIED_ROWS, job.fragment.rows))
        with kept_generators():
            for found, order in ((first, rows), (second, reversed(rows))):
                # Whoever draws from a global generator that is not seeded for him shall not find it as it was.
                np.random.random(), random.random(), torch.rand(())
                decoded: dict[int, Sample] = {}
                for row in order:
                    place = row // job.fragment.views
                    try:
                        if found is second or place not in decoded:
                            (decoded[place],) = self._decode(job.positions[[place]])
                        found[row] = check_of(self._make(job, row, decoded[place], None)[0])
                    except AugmentationError:
                        raise
                    except Exception:  # noqa: BLE001 - decoders and transforms raise anything
                        continue
        differ = [row for row in first.keys() & second.keys() if first[row] != second[row]]
        if differ:
            raise AugmentationError(
                f"views of samples {name_some(job.names(sorted(differ)))} come out otherwise when they are made again: "
                "the transform draws from a generator of its own, or changes its input. Let it draw from Python's, "
                "NumPy's or torch's global generators or from its argument rng, or give it draw and apply "
                "(docs/views.md)"
            )

    def _decode(self, positions: Array) -> list[Sample]:
        return self._transfer_set.samples(positions, self._transfer_set.content)

    def _view(self, job: Job, row: int, sample: Sample) -> Sample:
        """Return a sample with a view in its place, recorded or compared."""
        fragment = job.fragment
        recorded = self._record_of(fragment)
        if recorded is None:
            made = self._made.setdefault(fragment.number, self._no_views(fragment))
            view, parameters = self._make(job, row, sample, None)
            placed: Sample = self._augmentation.place(sample, view)
            made.checks[row] = np.frombuffer(check_of(view), np.uint8)
            if made.parameters is not None:
                made.parameters[row] = parameters
            return placed
        check = recorded.checks[row].tobytes()
        if check == NO_VIEW:
            raise ValueError("no view of it is recorded")
        known = None if recorded.parameters is None else recorded.parameters[row]
        view, _ = self._make(job, row, sample, known)
        if not agrees(view, check, exact=recorded.versions == recorded.here):
            raise AlignmentError(
                f"sample {fragment.sample_ids[row // fragment.views].as_py()!r}, view "
                f"{fragment.first_view + row % fragment.views}: made otherwise than the view that is recorded "
                f"(recorded with {recorded.versions}; here: {recorded.here}); what decides it and is not declared, "
                "such as a file that the transform reads or a sample that it mixes in, has changed"
            )
        compared: Sample = self._augmentation.place(sample, view)
        return compared

    def _record_of(self, fragment: Fragment) -> RecordedViews | None:
        """Return what is recorded of a fragment, None if that is still to be done."""
        if fragment.number not in self._recorded and fragment.number not in self._made:
            recorded = self._read_recorded(fragment)
            if recorded is None:
                return None
            while len(self._recorded) >= KEPT_RECORDS:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[fragment.number] = recorded
        return self._recorded.get(fragment.number)

    def _no_views(self, fragment: Fragment) -> RecordedViews:
        return RecordedViews.empty(fragment.rows, draws=self._augmentation.draws)

    def _make(self, job: Job, row: int, sample: Sample, parameters: Parameters | None) -> tuple[Any, Parameters | None]:
        """Make a view, by its parameters where they are known, else by those that are drawn now."""
        augmentation, fragment = self._augmentation, job.fragment
        sample_id = fragment.sample_ids[row // fragment.views].as_py()
        number = fragment.first_view + row % fragment.views
        if augmentation.draws and parameters is None:
            parameters = augmentation.parameters(sample, sample_id, number, self._ids)
        partner = None if self._positions is None else self._partner(self._positions, parameters or {})
        return augmentation.view(sample, sample_id, number, parameters, partner), parameters

    def _partner(self, positions: Positions, parameters: Parameters) -> Sample:
        position = positions.find(parameters[PARTNER])
        if position is None:
            raise AlignmentError(
                f"sample {parameters['partner']!r} is mixed into a view and is not in the transfer set"
            )
        return self._decode(np.array([position]))[0]


def check_partners(files: Files, shards: Iterable[LiveShard], changed: Mapping[int, pa.Array]) -> None:
    """Raise AlignmentError where samples that have changed, by fragment, are mixed into views of other fragments."""
    others = {sample_id for ids in changed.values() for sample_id in ids.to_pylist()}
    mixed: list[Any] = []
    for live in shards:
        if live.shard.target == ROWS and live.fragment not in changed:
            drawn = read_recorded(files, live.shard, {}).parameters or []
            mixed += [one[PARTNER] for one in drawn if one is not None and one.get(PARTNER) in others]
    if mixed:
        raise AlignmentError(
            f"{files.url}: samples {name_some(sorted(set(mixed)))} have changed, and views of other samples have them "
            "mixed in: those and the answers to them are of what the samples were. Restore them, or build another cache"
        )


def read_recorded(files: Files, shard: Shard, versions: dict[str, str]) -> RecordedViews:
    """Read what a `rows` shard holds of its views, checked. Raises IntegrityError or FormatError."""
    where = f"{files.url}/{shard.files[0].path}"
    batch = arrow.load(read_reference(files, shard.files[0]), where)
    try:
        checks = arrow.numbers(batch["check"].values.values).reshape(-1, CHECK_BYTES)
        drawn = None
        if "parameters" in batch.schema.names:
            drawn = [one for text in batch["parameters"].to_pylist() for one in json.loads(text)]
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as e:
        raise FormatError(f"{where}: its views are not recorded as they should be: {e!r}") from e
    if len(checks) != shard.rows or (drawn is not None and len(drawn) != shard.rows):
        raise FormatError(f"{where}: it does not record each of its {shard.rows:,} views")
    return RecordedViews(checks, drawn, versions)
