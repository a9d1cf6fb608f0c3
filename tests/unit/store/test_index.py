"""Segments of the index are merged: few are searched, and an entry is written again only now and then."""

import math

from hypothesis import given
from hypothesis import strategies as st

from softcache.store.index import MAX_SEGMENTS, segments_to_merge
from softcache.store.shards import CheckedFile

BYTES = 16


def segment(entries: int) -> CheckedFile:
    return CheckedFile("index/00/x", BYTES * entries, "0" * 64, ())


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=300))
def test_appended(sizes: list[int]) -> None:
    segments: list[int] = []
    for size in sizes:
        count = segments_to_merge([segment(entries) for entries in segments], size)
        segments = [*segments[: len(segments) - count], size + sum(segments[len(segments) - count :])]
        assert len(segments) <= MAX_SEGMENTS
    assert sum(segments) == sum(sizes)


def test_written_again_as_often_as_the_index_doubles() -> None:
    segments: list[int] = []
    written = 0
    for _ in range(4096):
        count = segments_to_merge([segment(entries) for entries in segments], 100)
        merged = 100 + sum(segments[len(segments) - count :])
        segments, written = [*segments[: len(segments) - count], merged], written + merged
    assert written <= 2 * 100 * 4096 * math.log2(4096)


def test_a_small_addition_leaves_a_large_segment_alone() -> None:
    assert segments_to_merge([segment(1_000_000)], 10) == 0
    assert segments_to_merge([segment(1_000_000), segment(20)], 10) == 1
    assert segments_to_merge([segment(10)], 1_000_000) == 1
