"""What a media library holds, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

MediaType = Literal["audio", "video"]

#: File name endings that are taken for media, in lower case, and what they are taken for. What a file really holds is
#: found out by `MediaLibrary.probe`.
MEDIA_TYPES: Final[Mapping[str, MediaType]] = {
    **dict.fromkeys((".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts"), "video"),
    **dict.fromkeys((".mts", ".wmv", ".flv", ".3gp", ".3g2", ".ogv", ".mxf", ".vob"), "video"),
    **dict.fromkeys((".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma"), "audio"),
    **dict.fromkeys((".aif", ".aiff"), "audio"),
}

DEFAULT_EXTENSIONS: Final[tuple[str, ...]] = tuple(MEDIA_TYPES)


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One audio or video in the library, as it was when it was listed.

    Attributes:
        key: The partition key: `path`, encoded.
        path: Path within the library, with `/` between folders.
        uri: Where it is (`file:///…`, `s3://…`, `https://…`), without credentials or query.
        size: Bytes, or None where the library does not tell (a manifest of URLs).
        modified: Since when its content may have been what it is, in seconds since 1970; None where the library does
            not tell.
        version: The store's own mark of this content (an ETag), or None where there is none.
        media_type: What its name says it is.
        suffix: The ending of its name in lower case, with the dot.
    """

    key: str
    path: str
    uri: str
    size: int | None
    modified: float | None
    version: str | None
    media_type: MediaType
    suffix: str


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a media file really holds.

    Attributes:
        duration_sec: Length in seconds.
        has_video: Whether there are moving pictures; the cover of a record is none.
        has_audio: Whether there is sound.
        width: Width of the picture in pixels, or None without one.
        height: Height of the picture in pixels, or None without one.
    """

    duration_sec: float
    has_video: bool
    has_audio: bool
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What the library held at one moment.

    Attributes:
        files: The media files, sorted by path.
        skipped: How many entries were left out, by reason (`hidden`, `unsupported`, `excluded`, `settling`, `link`,
            `unreadable`, `invalid`).
        problems: One sentence for each entry that a person may want to look at, at most `MAX_PROBLEMS`.
        settling: The partition keys of files that are there but were left for the next listing.
    """

    files: tuple[MediaFile, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    settling: frozenset[str] = frozenset()


#: A folder with a hundred thousand broken links should not fill a log.
MAX_PROBLEMS: Final = 100


@dataclass(slots=True)
class ListingBuilder:
    """Gathers a listing while a library is walked through."""

    files: list[MediaFile] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    settling: set[str] = field(default_factory=set)

    def skip(self, reason: str, problem: str | None = None) -> None:
        """Count an entry that is left out, and keep the sentence about it if there is one."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        if problem is not None and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def build(self) -> Listing:
        """Close the listing."""
        self.files.sort(key=lambda file: file.path)
        return Listing(tuple(self.files), self.skipped, tuple(self.problems), frozenset(self.settling))
