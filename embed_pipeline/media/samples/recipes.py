"""Recipes of the sample library: which scenes and sounds each file shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch of one scene and one sound.

    Args:
        scene: Name of a scene in `scenes`, or None for no picture.
        sound: Name of a sound in `sounds`, or None for silence in a file without sound.
        seconds: Length in seconds.
        seed: Number from which scene and sound are varied.
    """

    scene: str | None
    sound: str | None
    seconds: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """Recipe of one file of the sample library.

    Args:
        name: Path within the library.
        shots: Pictures and sound, one after the other.
        size: Width and height of the picture in pixels. It is painted at half of both and enlarged, since painting
            takes longer than all else.
        rate: Pictures a second.
        skip_sec: Length of the beginning that is left out, in seconds; makes a shifted copy of another sample.
        quality: Constant rate factor of the video encoder; more is worse.
        subtitles: Lines for a sidecar `.srt`, evenly spread over the length.
    """

    name: str
    shots: tuple[Shot, ...]
    size: tuple[int, int] = (640, 360)
    rate: int = 10
    skip_sec: float = 0.0
    quality: int = 26
    subtitles: tuple[str, ...] = ()


_CITY = Sample(
    "city-night.mp4",
    (
        Shot("skyline", "beat", 8, 1),
        Shot("market", "beat", 6, 2),
        Shot("skyline", "talk", 7, 7),
        Shot("plasma", "beat", 5, 3),
    ),
)

SAMPLES: Final[tuple[Sample, ...]] = (
    Sample(
        "Reisen/Küste, Abend.mp4", (Shot("sea", "surf", 9, 1), Shot("sea", "birds", 7, 5), Shot("forest", "surf", 6, 2))
    ),
    _CITY,
    replace(_CITY, name="city-night-copy.mkv", skip_sec=3.0, size=(704, 396), quality=33),
    Sample(
        "interview.mp4",
        (Shot("speaker", "talk", 9, 1), Shot("speaker", "talk", 8, 2), Shot("sea", "talk", 5, 4)),
        subtitles=(
            "You have kept the light here for thirty years.",
            "Thirty-one. The lamp was still oil when I came.",
            "What do you hear at night?",
            "The surf, mostly. And in spring the birds come through.",
        ),
    ),
    Sample("forest-walk.webm", (Shot("forest", "birds", 8, 3), Shot("forest", "tune", 7, 9)), quality=36),
    Sample(
        "market-morning.mov",
        (Shot("market", "tune", 7, 4), Shot("market", "beat", 6, 11), Shot("plasma", "tune", 5, 8)),
    ),
    Sample(
        "timelapse-without-sound.mp4", (Shot("growth", None, 8, 1), Shot("plasma", None, 6, 5), Shot("sea", None, 6, 8))
    ),
    Sample("sound/harbour-bells.wav", (Shot(None, "bells", 14, 1), Shot(None, "surf", 8, 3))),
    Sample("sound/evening-song.mp3", (Shot(None, "tune", 18, 2), Shot(None, "birds", 10, 6))),
    Sample(
        "lecture-twelve-minutes.mp4",
        tuple(Shot("slide" if number % 4 else "speaker", "talk", 40, 20 + number) for number in range(18)),
        rate=1,
    ),
)

#: The one file that cannot be played, on purpose: an upload that broke off after a header that looks right.
BROKEN_SAMPLE: Final = "broken-upload.mp4"
