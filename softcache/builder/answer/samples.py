"""The samples that teachers get: as they are, or as views, which are recorded for `rows` and compared."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.answer.jobs import Job
from softcache.builder.prepare.view_records import RecordedViews, ViewRecords
from softcache.errors import AlignmentError, AugmentationError, name_some
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt
from softcache.transfer import Scan, TransferSet
from softcache.transfer.augmentation import PARTNER, Augmentation, Parameters, kept_generators
from softcache.transfer.libraries import transform_versions
from softcache.transfer.positions import Positions
from softcache.transfer.sources import Sample
from softcache.transfer.view_checks import NO_VIEW, agrees, check_of

TRIED_ROWS, KEPT_RECORDS = 8, 4


class Samples:
    """The samples of a transfer set, decoded. Made for one build."""

    #: Whether teachers see views of the samples.
    augments = False

    def __init__(self, transfer_set: TransferSet, scan: Scan | None = None) -> None:
        """With `scan`, samples are compared with what they were when they were scanned."""
        self._transfer_set, self._scan = transfer_set, scan

    def load(self, job: Job, rows: Sequence[int], columns: Sequence[str]) -> list[Sample]:
        """Return `columns` of rows of a fragment, decoded. Whatever the decoder raises comes through."""
        return self._transfer_set.samples(job.positions[np.asarray(rows)], columns, self._scan)

    def take(self, fragment: Fragment) -> RecordedViews | None:
        """Return the record of a fragment's views after all of them were loaded; None if there are no views."""
        return None

    def record_all(self, job: Job, batch_size: int) -> RecordedViews | None:
        """Return the record of a fragment's views although no teacher has asked for them."""
        return None

    def note_rows(self, fragment: Fragment, receipt: Receipt) -> None:
        """Learn that a fragment's shard of `rows` has been written."""


class AugmentedSamples(Samples):
    """Views of samples.

    Views that are recorded already are compared with the views that are made now, also if their shard of `rows` is to
    be rewritten. All others are recorded here until the fragment's record is taken for `rows`; from then on it is
    read from the shard (`published`).
    """

    augments = True

    def __init__(
        self,
        transfer_set: TransferSet,
        augmentation: Augmentation,
        scan: Scan,
        records: ViewRecords,
    ) -> None:
        super().__init__(transfer_set, scan)
        self._augmentation, self._ids = augmentation, scan.sample_ids
        self._positions = Positions(scan.sample_ids) if augmentation.mixes else None
        self._records = records
        self._recorded: dict[int, RecordedViews] = {}
        self._made: dict[int, RecordedViews] = {}

    def load(self, job: Job, rows: Sequence[int], columns: Sequence[str]) -> list[Sample]:
        """Return views. Raises AlignmentError if one differs from its record, and whatever the transform raises."""
        places, which = np.unique(np.asarray(rows) // job.fragment.views, return_inverse=True)
        decoded = self._decode(job.positions[places])
        with kept_generators():
            views = [self._view(job, row, decoded[i]) for row, i in zip(rows, which.tolist(), strict=True)]
        return [{name: view[name] for name in columns} for view in views]

    def take(self, fragment: Fragment) -> RecordedViews:
        """Return the record of a fragment after all its samples were loaded. A new record is forgotten here.

        May be called while another thread loads samples of other fragments.
        """
        made = self._made.pop(fragment.number, None)
        if made is None:
            recorded = self._records.find(fragment)
            if recorded is not None:
                return recorded
            made = self._no_views(fragment)
        # Ask only now: a transform or a decoder may import libraries when it is first called.
        return replace(made, versions=transform_versions())

    def note_rows(self, fragment: Fragment, receipt: Receipt) -> None:
        """Read the fragment's record from its shard of `rows` from now on."""
        self._records.add(fragment, receipt)

    def record_all(self, job: Job, batch_size: int) -> RecordedViews:
        """Return the record of a fragment's views, making the views if there is none. Views that fail are left out."""
        recorded = self._record_of(job.fragment)
        if recorded is not None:
            return recorded
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

        Samples that cannot be decoded or augmented are left out: the build reports them.
        """
        rows = range(min(TRIED_ROWS, job.fragment.rows))
        with kept_generators():
            first, second = self._try(job, rows), self._try(job, reversed(rows), decode_each=True)
        differ = [row for row in first.keys() & second.keys() if first[row] != second[row]]
        if differ:
            raise AugmentationError(
                f"views of samples {name_some(job.names(sorted(differ)))} differ when they are made again: "
                "the transform draws from a generator of its own, or changes its input. Let it draw from Python's, "
                "NumPy's or torch's global generators or from its argument rng, or give it draw and apply "
                "(docs/views.md)"
            )

    def _try(self, job: Job, rows: Iterable[int], *, decode_each: bool = False) -> dict[int, bytes]:
        """Return the checks of views that can be made, by row. `decode_each` decodes samples again for each view."""
        # Disturb the global generators, so that a transform that draws from an unseeded one gives itself away.
        np.random.random(), random.random(), torch.rand(())
        found: dict[int, bytes] = {}
        decoded: dict[int, Sample] = {}
        for row in rows:
            place = row // job.fragment.views
            try:
                if decode_each or place not in decoded:
                    (decoded[place],) = self._decode(job.positions[[place]])
                found[row] = check_of(self._make(job, row, decoded[place], None)[0])
            except AugmentationError:
                raise
            except Exception:  # noqa: BLE001 - decoders and transforms raise anything
                continue
        return found

    def _decode(self, positions: Array) -> list[Sample]:
        return self._transfer_set.samples(positions, self._transfer_set.content, self._scan)

    def _view(self, job: Job, row: int, sample: Sample) -> Sample:
        """Return a sample with a view in its place, recorded or compared."""
        view = self._recorded_view(job, row, sample)
        placed: Sample = self._augmentation.place(sample, view)
        return placed

    def _recorded_view(self, job: Job, row: int, sample: Sample) -> Any:
        fragment = job.fragment
        recorded = self._record_of(fragment)
        if recorded is None:
            if fragment.number not in self._made:
                self._made[fragment.number] = self._no_views(fragment)
            made = self._made[fragment.number]
            view, parameters = self._make(job, row, sample, None)
            made.checks[row] = np.frombuffer(check_of(view), np.uint8)
            if made.parameters is not None:
                made.parameters[row] = parameters
            return view
        check = recorded.checks[row].tobytes()
        if check == NO_VIEW:
            raise ValueError("no view of it is recorded")
        known = None if recorded.parameters is None else recorded.parameters[row]
        view, _ = self._make(job, row, sample, known)
        if not agrees(view, check, exact=recorded.versions == recorded.here):
            raise AlignmentError(
                f"sample {fragment.sample_ids[row // fragment.views].as_py()!r}, view "
                f"{fragment.first_view + row % fragment.views}: differs from the view that is recorded "
                f"(recorded with {recorded.versions}; here: {recorded.here}); something undeclared that decides it, "
                "such as a file that the transform reads or a sample that it mixes in, has changed"
            )
        return view

    def _record_of(self, fragment: Fragment) -> RecordedViews | None:
        """Return the record of a fragment, None if its views are still to be made."""
        if fragment.number not in self._recorded and fragment.number not in self._made:
            recorded = self._records.find(fragment)
            if recorded is None:
                return None
            while len(self._recorded) >= KEPT_RECORDS:
                del self._recorded[next(iter(self._recorded))]
            self._recorded[fragment.number] = recorded
        return self._recorded.get(fragment.number)

    def _no_views(self, fragment: Fragment) -> RecordedViews:
        return RecordedViews.empty(fragment.rows, draws=self._augmentation.draws)

    def _make(self, job: Job, row: int, sample: Sample, parameters: Parameters | None) -> tuple[Any, Parameters | None]:
        """Make a view from its parameters, which are drawn now unless they are known."""
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
