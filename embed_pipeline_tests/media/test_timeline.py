from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.media.timeline import Timeline
from embed_pipeline_tests.media.awkward import Recording

FILM, SOUND = 0, 1


@pytest.fixture(scope="module")
def streams():
    """A video and an audio stream for packets to belong to."""
    with av.open(io.BytesIO(Recording("matroska", seconds=1).content())) as container:
        yield container.streams


def packet(streams, index: int, time: float | None, length: float = 0.1) -> av.Packet:
    made = av.Packet(b"x")
    made.stream, made.time_base = streams[index], Fraction(1, 1000)
    made.pts = made.dts = None if time is None else round(time * 1000)
    made.duration = round(length * 1000)
    return made


def place(streams, times, container: str = "mpegts") -> tuple[list[float], Timeline]:
    """Place packets, given as pairs of stream and time, and return their times on the timeline."""
    timeline = Timeline(container)
    placed = []
    for index, time in times:
        made = packet(streams, index, time)
        timeline.place(made)
        placed.append(float(made.pts * made.time_base))
    return placed, timeline


def regular(start: float, count: int, streams: tuple[int, ...] = (FILM, SOUND)) -> list[tuple[int, float]]:
    return [(index, start + number * 0.1) for number in range(count) for index in streams]


def test_times_of_one_recording_stay_as_they_are(streams):
    times = regular(20_000, 50)
    placed, timeline = place(streams, times)
    assert placed == pytest.approx([time for _, time in times])
    assert (timeline.start, timeline.end) == (pytest.approx(20_000), pytest.approx(20_005))


@pytest.mark.parametrize("second", [0.0, 1.5, 95_443.7, 5_000.0])
def test_a_recording_that_was_joined_follows_on(streams, second):
    placed, timeline = place(streams, regular(1.5, 50) + regular(second, 50))
    assert timeline.end - timeline.start == pytest.approx(10)
    assert placed[::2] == pytest.approx([1.5 + number * 0.1 for number in range(100)])


def test_a_stream_that_lags_behind_stays_with_its_own_recording(streams):
    first, second = regular(1.5, 50), regular(1.5, 50)
    # The last two packets of the sound come after the second recording has begun.
    late = first[-1], first[-3]
    times = [*first[:-3], first[-2], *second[:1], *late[::-1], *second[1:]]
    placed, timeline = place(streams, times)
    assert timeline.end - timeline.start == pytest.approx(10, abs=0.15)
    assert max(placed) == pytest.approx(11.4, abs=0.15)


@pytest.mark.parametrize("wild", [0.0, 9_000_000.0, -500.0])
@pytest.mark.parametrize("container", ["mpegts", "matroska,webm"])
def test_one_wild_time_moves_nothing_but_itself(streams, wild, container):
    times = regular(1_000, 50)
    times[40] = (times[40][0], wild)
    placed, timeline = place(streams, times, container)
    assert [time for number, time in enumerate(placed) if number != 40] == pytest.approx(
        [time for number, (_, time) in enumerate(times) if number != 40]
    )
    assert timeline.end == pytest.approx(1_005, abs=0.2)


def test_a_pause_is_time(streams):
    _, timeline = place(streams, regular(0, 10) + regular(31, 10))
    assert timeline.end == pytest.approx(32)
    _, timeline = place(streams, regular(0, 10) + regular(601, 10), "matroska,webm")
    assert timeline.end == pytest.approx(602)


def test_a_pause_is_as_long_as_the_header_says(streams):
    timeline = Timeline("mov,mp4", declared_end=40_000)
    for time in (0, 20_000, 39_999):
        timeline.place(packet(streams, FILM, time))
    assert timeline.end == pytest.approx(39_999.1)


def test_packets_without_times_follow_on_each_other(streams):
    placed, timeline = place(streams, [(FILM, None)] * 50)
    assert placed == pytest.approx([number * 0.1 for number in range(50)])
    assert timeline.end == pytest.approx(5)


@given(st.lists(st.tuples(st.sampled_from([FILM, SOUND]), st.none() | st.floats(-1e6, 1e6)), max_size=40))
def test_whatever_the_times_the_length_is_finite_and_not_negative(streams, times):
    _, timeline = place(streams, times)
    if times:
        assert 0 <= timeline.end - timeline.start < 1e9
