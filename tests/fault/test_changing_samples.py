"""Samples that change while a build runs: what the teacher sees is what is hashed, or the build stops."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from augmented import Augmented
from conftest import Workshop

import softcache
from softcache.builder.engines import local
from softcache.builder.prepare.prepared import PreparedBuild
from softcache.errors import AlignmentError


def change(monkeypatch: pytest.MonkeyPatch, column: str, value: Any) -> None:
    """Let the source give another value for sample 13 after the scan, before teachers are asked."""
    teacher_jobs = local.teacher_jobs

    def after_the_scan(prepared: PreparedBuild) -> Any:
        source = prepared.transfer_set.source
        read = source.read

        def other(positions: np.ndarray, columns: Sequence[str]) -> pa.Table:
            table = read(positions, columns)
            if column not in columns or 13 not in positions.tolist():
                return table
            made = table[column].to_pylist()
            made[positions.tolist().index(13)] = value
            place = table.column_names.index(column)
            return table.set_column(place, column, pa.array(made, table[column].type))

        monkeypatch.setattr(type(source), "read", lambda self, *arguments: other(*arguments))
        return teacher_jobs(prepared)

    monkeypatch.setattr(local, "teacher_jobs", after_the_scan)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("column", "value"), [("x", [5.0, 0, 0, 0]), ("x", [1000.0, 0, 0, 0]), ("label", 4)])
def test_a_sample_that_changes_stops_the_build(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, column: str, value: Any, skip: bool
) -> None:
    """Also where bad samples are skipped, and where the new sample could not be preprocessed."""
    workshop.recipe["build"]["on_bad_sample"] = "skip" if skip else "stop"
    workshop.build(limit=10)
    change(monkeypatch, column, value)
    with pytest.raises(AlignmentError, match="samples 13 have changed since this build read them first"):
        workshop.build()
    assert softcache.open(workshop.cache).commit.rows == 10
    assert softcache.verify(workshop.cache).ok
    monkeypatch.undo()
    workshop.build()
    assert softcache.verify(workshop.cache).ok
    assert softcache.open(workshop.cache).commit.rows == 40


def test_a_view_of_a_sample_that_changes(augmented: Augmented, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = augmented()
    change(monkeypatch, "x", [5.0, 0, 0, 0])
    with pytest.raises(AlignmentError, match="samples 13 have changed since"):
        workshop.build()
