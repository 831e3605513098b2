"""Values of a media library, and the rule by which its files are chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Final, Literal, NamedTuple

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.media.keys import encode_partition_key

MediaType = Literal["audio", "video"]

_VIDEO: Final = (
    ".mp4 .mov .m4v .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .wmv .flv .3gp .3g2 .ogv .mxf .vob "
    ".f4v .asf .qt .mp4v .3gpp .3gp2 .mpe .mpv .m1v .m2v .m2t .m2p .tod .dv .ogm .mk3d .wtv .dvr-ms .gxf .ivf .nut "
    ".rm .rmvb .h264 .264 .h265 .265 .hevc"
)
_AUDIO: Final = (
    ".wav .mp3 .m4a .aac .flac .ogg .oga .opus .wma .aif .aiff "
    ".m4b .m4r .mka .weba .3ga .amr .awb .caf .mp1 .mp2 .mpa .mpga .m2a .adts .ac3 .eac3 .ec3 .dts .au .snd .aifc "
    ".w64 .bwf .wv .ape .tta .voc .spx .ra"
)

#: File name endings that are taken for media, in lower case, and the type that each stands for. The content itself is
#: looked at by `MediaLibrary.probe`.
MEDIA_TYPES: Final[Mapping[str, MediaType]] = {
    **dict.fromkeys(_VIDEO.split(), "video"),
    **dict.fromkeys(_AUDIO.split(), "audio"),
}

DEFAULT_EXTENSIONS: Final[tuple[str, ...]] = tuple(MEDIA_TYPES)


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One audio or video in the library, as it was when it was listed.

    Args:
        key: The partition key: `path`, encoded.
        path: Path within the library, with `/` between folders. Bytes of a name that are not UTF-8 are in it as lone
            surrogates, so it opens the file, but not every encoding takes it: show `key`, or `printable_path(path)`.
        uri: Address (`file:///…`, `s3://…`, `https://…`), without credentials or query.
        size: Bytes, or None where the library does not have it (a manifest of URLs).
        modified: Time since when its content may have been what it is, in seconds since 1970, or None.
        version: The store's own mark of this content (an ETag), or None where there is none.
        media_type: Type by the ending of its name.
        suffix: Ending of its name in lower case, with the dot.
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
    """Content of a media file.

    Args:
        duration_sec: Length in seconds: the end less the start.
        has_video: Whether there are moving pictures; the cover of a record is none.
        has_audio: Whether there is sound.
        width: Width of the picture in pixels as it is shown, after `rotation`; None without one.
        height: Height of the picture in pixels as it is shown, after `rotation`; None without one.
        duration_is: `header` if the file notes its length, `measured` if its packets were read for it. It is never
            estimated.
        rotation: Clockwise turn in degrees (0, 90, 180, 270) with which the stored picture is shown.
        start_sec: Time at which the file's own clock begins, in seconds.
        container: Format, in FFmpeg's names, separated by commas.
        video_codec: Codec of the first video stream, in FFmpeg's name; None without one.
        audio_codec: Codec of the first audio stream, in FFmpeg's name; None without one.
        frame_rate: Pictures a second on average, or None.
        sample_rate: Samples a second, or None.
        channels: Number of audio channels, or None.
    """

    duration_sec: float
    has_video: bool
    has_audio: bool
    width: int | None = None
    height: int | None = None
    duration_is: Literal["header", "measured"] = "header"
    rotation: int = 0
    start_sec: float = 0.0
    container: str = ""
    video_codec: str | None = None
    audio_codec: str | None = None
    frame_rate: float | None = None
    sample_rate: int | None = None
    channels: int | None = None


class LeftOut(NamedTuple):
    """An entry of a library that is not in its listing.

    Args:
        path: Path within the library, encoded like a partition key so that it can be shown.
        reason: The reason, as in `Listing.skipped`.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Content of a library at one moment.

    Args:
        files: The media files, sorted by path.
        skipped: Number of entries left out, by reason (`hidden`, `unsupported`, `excluded`, `settling`, `link`,
            `unreadable`, `invalid`).
        problems: One sentence for each entry that a person may want to look at, at most `MAX_PROBLEMS`.
        settling: The partition keys of files that are there but were left for the next listing.
        left_out: Entries left out by name, at most `MAX_LEFT_OUT` of each reason.
        endings: Number of `unsupported` files by the ending of their name in lower case, the most frequent first, at
            most `MAX_ENDINGS`; the empty string stands for names without one.
    """

    files: tuple[MediaFile, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    settling: frozenset[str] = frozenset()
    left_out: tuple[LeftOut, ...] = ()
    endings: Mapping[str, int] = field(default_factory=dict)


#: A folder with a hundred thousand broken links should not fill a log.
MAX_PROBLEMS: Final = 100
MAX_LEFT_OUT: Final = 50
MAX_ENDINGS: Final = 50


@dataclass(slots=True)
class ListingBuilder:
    """Collects a listing while a library is walked through."""

    files: list[MediaFile] = field(default_factory=list)
    settling: set[str] = field(default_factory=set)
    _skipped: dict[str, int] = field(default_factory=dict)
    _problems: list[str] = field(default_factory=list)
    _left_out: list[LeftOut] = field(default_factory=list)
    _endings: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str, path: str | None = None, problem: str | None = None) -> None:
        """Count an entry that is left out.

        Args:
            reason: The reason, one word.
            path: Path within the library, or None where it has none.
            problem: A sentence about it, or None where nobody needs one.
        """
        self._skipped[reason] = self._skipped.get(reason, 0) + 1
        if path is not None and self._skipped[reason] <= MAX_LEFT_OUT:
            self._left_out.append(LeftOut(encode_partition_key(path), reason))
        if problem is not None and len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)
        if path is not None and reason == "unsupported":
            ending = suffix_of(path.rpartition("/")[2])
            ending = ending[:1] + encode_partition_key(ending[1:])
            self._endings[ending] = self._endings.get(ending, 0) + 1

    def build(self) -> Listing:
        """Return the listing."""
        self.files.sort(key=lambda file: file.path)
        endings = sorted(self._endings.items(), key=lambda item: (-item[1], item[0]))
        return Listing(
            files=tuple(self.files),
            skipped=self._skipped,
            problems=tuple(self._problems),
            settling=frozenset(self.settling),
            left_out=tuple(sorted(self._left_out)),
            endings=dict(endings[:MAX_ENDINGS]),
        )


Verdict = Literal["wanted", "hidden", "unsupported", "excluded"]


@dataclass(frozen=True)
class Selection:
    """The rule by which entries of a library are chosen; it reads nothing.

    Patterns are matched against the path within the library, `*` matches across folders, case counts: `interviews/*`,
    `*/raw/*`, `*.mkv`.

    Args:
        include: Patterns of which one has to match; none means that all do.
        exclude: Patterns of which none may match.
        extensions: Endings that are taken for media, with the dot.
        recursive: Whether folders within the library are looked into.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    extensions: Sequence[str] = DEFAULT_EXTENSIONS
    recursive: bool = True
    _include: re.Pattern[str] | None = field(init=False, repr=False, compare=False)
    _exclude: re.Pattern[str] | None = field(init=False, repr=False, compare=False)
    _extensions: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "extensions"):
            if isinstance(getattr(self, name), str):
                raise ConfigurationError(
                    f"{name} must be a list of strings, not the one string {getattr(self, name)!r}."
                )
        for ending in self.extensions:
            if not ending.startswith("."):
                raise ConfigurationError(f"extensions must begin with a dot: {ending!r} should be '.{ending}'.")
        object.__setattr__(self, "_include", _any_of(self.include))
        object.__setattr__(self, "_exclude", _any_of(self.exclude))
        object.__setattr__(self, "_extensions", frozenset(ending.lower() for ending in self.extensions))

    def verdict(self, path: str, suffix: str) -> Verdict:
        """Return `wanted`, or the reason for leaving a file out.

        Args:
            path: Path within the library.
            suffix: Ending of its name, in lower case.
        """
        if path.startswith(".") or "/." in path:
            return "hidden"
        if suffix not in self._extensions:
            return "unsupported"
        if self._include is not None and not self._include.match(path):
            return "excluded"
        if self._exclude is not None and self._exclude.match(path):
            return "excluded"
        return "wanted"


def suffix_of(name: str) -> str:
    """Return the ending of a file name in lower case, with the dot, or an empty string."""
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem and "/" not in ending else ""


def media_type_of(suffix: str) -> MediaType:
    """Return the type that a file name ending stands for; video for one that only the user named."""
    return MEDIA_TYPES.get(suffix, "video")


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None
