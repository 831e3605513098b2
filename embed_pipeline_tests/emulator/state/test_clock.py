from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.state.clock import Clock, from_rfc3339, new_id, to_rfc3339


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_is_read_as_it_was_written(epoch_ms):
    text = to_rfc3339(epoch_ms)
    assert len(text) == 24
    assert text.endswith("Z")
    assert from_rfc3339(text) == epoch_ms


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [("1970-01-01T00:00:01Z", 1000), ("1970-01-01T01:00:00+01:00", 0), ("1970-01-01t00:00:00.5z", 500)],
)
def test_times_are_read_as_clients_send_them(text, epoch_ms):
    assert from_rfc3339(text) == epoch_ms


@given(st.text("0123456789-:.TtZz+ ²", max_size=30))
def test_what_is_no_time_is_refused_in_one_way(text):
    with contextlib.suppress(ValueError):
        assert isinstance(from_rfc3339(text), int)


@pytest.mark.parametrize("text", ["2024-13-01T00:00:00Z", "2024-01-01", "2024-01-01T00:00:00", "1", ""])
def test_a_time_without_its_parts_is_refused(text):
    with pytest.raises(ValueError, match=r"RFC 3339|month|range"):
        from_rfc3339(text)


@given(st.lists(st.floats(0, 10**6), max_size=8))
def test_the_clock_only_moves_forward(steps):
    clock = Clock(frozen_at=0)
    for step in steps:
        before = clock.now()
        assert clock.advance(step) - before == round(step * 1000)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-0.001)


def test_ids_are_never_given_twice_and_begin_with_the_time():
    ids = {new_id(1_700_000_000_000) for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {(len(one), one[:8]) for one in ids} == {(24, "6553f100")}
