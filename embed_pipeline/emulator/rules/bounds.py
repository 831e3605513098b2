"""The platform's bounds on media: length, size, resolution and aspect, as pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from embed_pipeline.emulator.settings import EmulatorSettings

_LONGEST_SIDE = 5184
_MOST_LINES = 2160
_FEWEST_PIXELS = 360
_WIDEST = 2.4


@dataclass(frozen=True)
class MediaFault:
    """A bound that a file exceeds.

    Args:
        code: The platform's code where this is found at creation; the same for audio and video.
        message: The reason with its figures.
    """

    code: str
    message: str


def duration_fault(seconds: float, shortest: float, longest: float) -> MediaFault | None:
    """Hold the length of a media file to its bounds; all in seconds."""
    if seconds < shortest:
        message = f"Duration ({seconds:.1f} seconds) is below minimum limit of {shortest:g} seconds"
        return MediaFault("video_duration_too_short", message)
    if seconds > longest:
        limit = f"{longest:.0f} seconds ({longest // 60:.0f} minutes)"
        message = f"Duration ({seconds:.1f} seconds) exceeds maximum limit of {limit}"
        return MediaFault("video_duration_too_long", message)
    return None


def size_fault(size: int, largest: int) -> MediaFault | None:
    """Hold the size of a file to its bound; both in bytes."""
    if size <= largest:
        return None
    mib = 1024**2
    message = f"File size ({size / mib:.1f} MB) exceeds maximum limit of {largest / mib:.0f} MB"
    return MediaFault("video_filesize_too_large", message)


def picture_fault(width: int, height: int) -> MediaFault | None:
    """Hold a video's pictures, upright or not, to 360x360 to 5184x2160 pixels and to an aspect of up to 2.4 to 1."""
    short, long = sorted((width, height))
    found = f"Resolution ({width}x{height})"
    if short < _FEWEST_PIXELS:
        least = f"{_FEWEST_PIXELS}x{_FEWEST_PIXELS}"
        return MediaFault("video_resolution_too_low", f"{found} is below minimum limit of {least}")
    if long > _LONGEST_SIDE or short > _MOST_LINES:
        return MediaFault(
            "video_resolution_too_high", f"{found} exceeds maximum limit of {_LONGEST_SIDE}x{_MOST_LINES}"
        )
    if long > _WIDEST * short:
        message = f"Aspect ratio ({long / short:.2f}) of {width}x{height} exceeds maximum limit of {_WIDEST:g}"
        return MediaFault("video_resolution_invalid_aspect_ratio", message)
    return None


def known_fault(
    settings: EmulatorSettings,
    input_type: str,
    duration_sec: float | None,
    size: int | None,
    pixels: tuple[int | None, int | None],
) -> MediaFault | None:
    """Hold what is known of a file to the bounds in force.

    Args:
        settings: The bounds; resolution and aspect count unless the switch `picture_size` is `any`.
        input_type: What the file is to be embedded as.
        duration_sec: Its length in seconds; like the following, None where it is not known.
        size: Its size in bytes.
        pixels: Width and height of its pictures.

    Returns:
        The first fault, or None if there is none in what is known.
    """
    fault = None if size is None else size_fault(size, settings.sizes.of_source(input_type))
    if fault is None and duration_sec is not None:
        fault = duration_fault(duration_sec, settings.min_duration_sec, settings.max_duration_sec)
    pictures = input_type == "video" and settings.switches.picture_size == "documented"
    width, height = pixels
    if fault is None and pictures and width and height:
        fault = picture_fault(width, height)
    return fault
