"""Which entries of a library are media files that somebody wants embedded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Literal

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.media.files import DEFAULT_EXTENSIONS, MEDIA_TYPES, MediaType

Verdict = Literal["wanted", "hidden", "unsupported", "excluded"]


@dataclass(frozen=True)
class Selection:
    """The rule by which entries are chosen; policy alone, it reads nothing.

    Patterns are matched against the path within the library, `*` matches across folders, case counts:
    `interviews/*`, `*/raw/*`, `*.mkv`.

    Attributes:
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
        """Say what to do with a file.

        Args:
            path: Path within the library.
            suffix: The ending of its name, in lower case.

        Returns:
            `wanted`, or the reason for leaving it out.
        """
        if suffix not in self._extensions:
            return "unsupported"
        if path.startswith(".") or "/." in path:
            return "hidden"
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
    """Return what a file with this ending is taken for; an ending that only the user named is taken for video."""
    return MEDIA_TYPES.get(suffix, "video")


def _any_of(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None
