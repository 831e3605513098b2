"""Limits that the platform documents for media files, and the check of a file against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Final

from embed_pipeline.media.files import MediaInfo

_GB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class PlatformLimits:
    """Bounds on media files, each of which includes the value itself.

    Args:
        min_duration_sec: Shortest length, in seconds.
        max_duration_sec: Longest length, in seconds.
        max_video_bytes: Largest file with pictures, in bytes.
        max_audio_bytes: Largest file with sound alone, in bytes.
        min_short_side: Fewest pixels of the shorter side of the picture.
        max_long_side: Most pixels of the longer side of the picture.
        max_short_side: Most pixels of the shorter side of the picture.
        max_aspect_ratio: Largest ratio of the longer side to the shorter one.
        audio_formats: Formats of files with sound alone that the platform names. Others may be taken too, so they are
            noted and not refused.
    """

    min_duration_sec: float = 4.0
    max_duration_sec: float = 4 * 3600.0
    max_video_bytes: int = 4 * _GB
    max_audio_bytes: int = 2 * _GB
    min_short_side: int = 360
    max_long_side: int = 5184
    max_short_side: int = 2160
    max_aspect_ratio: float = 2.4
    audio_formats: tuple[str, ...] = ("wav", "mp3", "flac")


# The documents give figures for marengo3.0; for marengo3.5 none were found that differ.
_BY_MODEL: Final[Mapping[str, PlatformLimits]] = {"marengo3.0": PlatformLimits(), "marengo3.5": PlatformLimits()}


def platform_limits(model: str) -> PlatformLimits:
    """Return the documented limits of a model; those of marengo3.0 for a model that is not known.

    Args:
        model: The platform's name of the model.
    """
    return _BY_MODEL.get(model, _BY_MODEL["marengo3.0"])


def violation(info: MediaInfo, size_bytes: int | None, limits: PlatformLimits) -> str | None:
    """Return why the platform refuses a file, with the value and the bound, or None if it does not.

    Args:
        info: Content of the file.
        size_bytes: Size of the file, or None if that is not known.
        limits: The bounds.
    """
    shortest, longest = limits.min_duration_sec, limits.max_duration_sec
    if info.duration_sec < shortest:
        length = format_duration(info.duration_sec, shortest)
        return f"too short: {length}, and the platform takes {format_duration(shortest)} or more"
    if info.duration_sec > longest:
        length = format_duration(info.duration_sec, longest)
        return f"too long: {length}, and the platform takes {format_duration(longest)} at most"
    kind, largest = ("video", limits.max_video_bytes) if info.has_video else ("audio", limits.max_audio_bytes)
    if size_bytes is not None and size_bytes > largest:
        size = _format_apart(size_bytes / _GB, largest / _GB)
        return f"too large: {size} GB, and the platform takes {kind} of {largest / _GB:g} GB at most"
    if info.width and info.height:
        return _picture_violation(info.width, info.height, limits)
    return None


def undocumented_format(info: MediaInfo, limits: PlatformLimits) -> str | None:
    """Return a note on a format that the platform's documents do not name, or None.

    Args:
        info: Content of the file.
        limits: The bounds.
    """
    container = info.container.split(",")[0]
    # FFmpeg reads MPEG audio of every layer as one format.
    named = container in limits.audio_formats and (container != "mp3" or info.audio_codec == "mp3")
    if info.has_video or not container or named:
        return None
    formats = ", ".join(name.upper() for name in limits.audio_formats)
    return f"audio as {container} ({info.audio_codec}); the platform documents {formats} only"


def format_duration(seconds: float, bound: float | None = None) -> str:
    """Return a length in seconds, or from two minutes on in minutes, rounded down.

    Args:
        seconds: The length.
        bound: A bound that the length is compared with: as many decimals are given as it takes to tell them apart.
    """
    unit, name, decimals = (1, "s", 2) if max(seconds, bound or 0) < 120 else (60, "min", 1)
    return f"{_format_apart(seconds / unit, None if bound is None else bound / unit, decimals)} {name}"


def _picture_violation(width: int, height: int, limits: PlatformLimits) -> str | None:
    short, long = sorted((width, height))
    if short < limits.min_short_side:
        least = limits.min_short_side
        return f"picture too small: {width}x{height}, and the platform takes {least}x{least} or more"
    if long > limits.max_long_side or short > limits.max_short_side:
        most = f"{limits.max_long_side}x{limits.max_short_side}"
        return f"picture too large: {width}x{height}, and the platform takes {most} at most, upright as well"
    if long > limits.max_aspect_ratio * short:
        ratio, bound = _format_apart(long / short, limits.max_aspect_ratio), f"{limits.max_aspect_ratio:g}"
        return f"picture too wide: {width}x{height} is {ratio} to 1, and the platform takes {bound} to 1 at most"
    return None


def _format_apart(value: float, bound: float | None, decimals: int = 2) -> str:
    """Return a number rounded down, with more decimals than asked for where it takes them to be above a bound."""
    exact = Decimal(repr(round(value, 9)))
    for places in range(decimals, 10):
        shown = exact.quantize(Decimal(1).scaleb(-places), ROUND_FLOOR)
        if bound is None or value <= bound or shown > Decimal(repr(bound)):
            break
    return f"{shown:f}".rstrip("0").rstrip(".")
