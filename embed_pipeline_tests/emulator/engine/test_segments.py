from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.engine.request import Dynamic, Fixed
from embed_pipeline.emulator.engine.segments import MAX_DYNAMIC_SEC, MIN_TAIL_SEC, SegmentPlanner, Span, plan

times = st.floats(0, 300, allow_nan=False).map(lambda value: round(value, 3))
cut_lists = st.lists(times, max_size=40).map(sorted)
segmentations = st.one_of(
    st.integers(2, 10).map(lambda sec: Fixed(float(sec))), st.integers(2, 5).map(lambda sec: Dynamic(float(sec)))
)


def lengths(spans: list[Span]) -> list[float]:
    return [span.end - span.start for span in spans]


@given(segmentations, cut_lists, times, st.floats(0.01, 300))
def test_segments_tile_the_window_without_gap_or_overlap(segmentation, cuts, start, length):
    spans = plan(segmentation, [cut for cut in cuts if start <= cut < start + length], start, start + length)
    assert spans[0].start == start
    assert spans[-1].end == start + length
    assert all(first.end == second.start for first, second in itertools.pairwise(spans))
    assert all(length > 0 for length in lengths(spans))


@given(st.integers(2, 5), cut_lists, st.floats(0.01, 300))
def test_a_dynamic_segment_is_never_shorter_than_the_minimum_nor_longer_than_the_maximum(minimum, cuts, end):
    spans = plan(Dynamic(float(minimum)), [cut for cut in cuts if cut < end], 0.0, end)
    assert max(lengths(spans)) <= MAX_DYNAMIC_SEC + 1e-6
    if end >= minimum:
        assert min(lengths(spans)) >= minimum - 1e-6


@given(st.integers(2, 10), st.floats(0.01, 300))
def test_fixed_windows_have_the_asked_length_but_for_the_last(seconds, end):
    spans = plan(Fixed(float(seconds)), [], 0.0, end)
    assert all(length == pytest.approx(seconds) for length in lengths(spans)[:-1])
    assert lengths(spans)[-1] < seconds + MIN_TAIL_SEC
    if end >= MIN_TAIL_SEC:
        assert lengths(spans)[-1] >= MIN_TAIL_SEC - 1e-9


@given(segmentations, cut_lists, times, st.floats(1, 300), st.lists(times, max_size=30))
def test_how_the_cuts_arrive_makes_no_difference(segmentation, cuts, start, length, clocks):
    end = start + length
    cuts = [cut for cut in cuts if start <= cut < end]
    planner, spans, waiting = SegmentPlanner(segmentation, start), [], list(cuts)
    for clock in sorted(min(start + clock, end) for clock in clocks):
        while waiting and waiting[0] < clock:
            planner.cut(waiting.pop(0))
        spans += planner.advance(clock)
    for cut in waiting:
        planner.cut(cut)
    spans += planner.finish(end)
    assert spans == plan(segmentation, cuts, start, end)


def test_cuts_become_the_bounds_of_segments():
    assert plan(Dynamic(2.0), [3.0, 7.5], 0.0, 12.0) == [Span(0.0, 3.0), Span(3.0, 7.5), Span(7.5, 12.0)]


def test_a_cut_right_before_the_end_leaves_no_sliver():
    assert plan(Dynamic(2.0), [4.0, 9.9], 0.0, 10.0) == [Span(0.0, 4.0), Span(4.0, 10.0)]


def test_a_long_scene_is_divided_into_equal_parts():
    assert plan(Dynamic(4.0), [15.0], 0.0, 20.0) == [Span(0.0, 7.5), Span(7.5, 15.0), Span(15.0, 20.0)]
