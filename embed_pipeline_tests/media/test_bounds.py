from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.media import (
    MediaInfo,
    PlatformLimits,
    format_duration,
    platform_limits,
    undocumented_format,
    violation,
)

GB = 1024**3
FILM = MediaInfo(60.0, True, True, 1920, 1080, container="mov,mp4,m4a", video_codec="h264", audio_codec="aac")
SONG = MediaInfo(60.0, False, True, container="wav", audio_codec="pcm_s16le")
LIMITS = PlatformLimits()


@pytest.mark.parametrize(
    ("info", "size", "sentence"),
    [
        (FILM, 4 * GB, None),
        (FILM, None, None),
        (replace(FILM, duration_sec=4.0), 1, None),
        (replace(FILM, duration_sec=4 * 3600.0), 1, None),
        (replace(FILM, duration_sec=3.97), 1, "too short: 3.97 s, and the platform takes 4 s or more"),
        (replace(FILM, duration_sec=3.99999), 1, "too short: 3.99 s, and the platform takes 4 s or more"),
        (
            replace(FILM, duration_sec=4 * 3600 + 0.5),
            1,
            "too long: 240.008 min, and the platform takes 240 min at most",
        ),
        (FILM, 5 * GB, "too large: 5 GB, and the platform takes video of 4 GB at most"),
        (SONG, 2 * GB, None),
        (SONG, 3 * GB, "too large: 3 GB, and the platform takes audio of 2 GB at most"),
        (replace(FILM, width=360, height=360), 1, None),
        (replace(FILM, width=640, height=359), 1, "picture too small: 640x359, and the platform takes 360x360 or more"),
        (replace(FILM, width=2160, height=5184), 1, None),
        (
            replace(FILM, width=5185, height=2160),
            1,
            "picture too large: 5185x2160, and the platform takes 5184x2160 at most, upright as well",
        ),
        (replace(FILM, width=360, height=864), 1, None),
        (
            replace(FILM, width=1000, height=2401),
            1,
            "picture too wide: 1000x2401 is 2.401 to 1, and the platform takes 2.4 to 1 at most",
        ),
    ],
)
def test_a_file_beyond_a_bound_is_told_with_its_value_and_the_bound(info, size, sentence):
    assert violation(info, size, LIMITS) == sentence


def test_every_bound_can_be_set():
    assert violation(replace(FILM, duration_sec=1), 1, PlatformLimits(min_duration_sec=0)) is None
    assert violation(replace(FILM, width=64, height=48), 1, PlatformLimits(min_short_side=0)) is None
    assert violation(FILM, 11, PlatformLimits(max_video_bytes=10)) is not None
    assert violation(FILM, 1, PlatformLimits(max_aspect_ratio=1.5)) is not None
    assert violation(FILM, 1, PlatformLimits(max_duration_sec=59)) is not None


def test_the_limits_are_those_of_the_model():
    assert platform_limits("marengo3.0") == LIMITS
    assert platform_limits("a model of next year") == LIMITS


@pytest.mark.parametrize(
    ("container", "codec", "documented"),
    [
        ("wav", "pcm_s16le", True),
        ("mp3", "mp3", True),
        ("flac", "flac", True),
        ("mp3", "mp2", False),
        ("ogg", "opus", False),
        ("ogg", "flac", False),
        ("mov,mp4,m4a,3gp,3g2,mj2", "aac", False),
    ],
)
def test_audio_in_a_format_that_is_not_documented_is_noted_and_not_refused(container, codec, documented):
    info = replace(SONG, container=container, audio_codec=codec)
    assert violation(info, 1, LIMITS) is None
    assert (undocumented_format(info, LIMITS) is None) == documented
    assert undocumented_format(replace(FILM, container=container), LIMITS) is None


def test_a_note_names_the_format_and_those_that_are_documented():
    info = replace(SONG, container="ogg", audio_codec="opus")
    assert undocumented_format(info, LIMITS) == "audio as ogg (opus); the platform documents WAV, MP3, FLAC only"


@given(st.floats(0.001, 10**6), st.floats(0.001, 10**6))
def test_a_length_is_never_shown_as_the_bound_that_it_is_beyond(seconds, bound):
    def shown(text: str) -> float:
        number, unit = text.split()
        return float(number) * {"s": 1, "min": 60}[unit]

    value = shown(format_duration(seconds, bound))
    assert value <= seconds + 1e-6
    if seconds > bound + 1e-3:
        assert value > bound - 1e-6
