"""The rules of single fields of a request; each names its field where it refuses it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import SourceKind
from embed_pipeline.emulator.rules.urls import check_link

NOT_PROVIDED = "parameter_not_provided"
UNKNOWN = "parameter_unknown"
DIMENSIONS = (128, 256, 512)
SOURCES: dict[str, SourceKind] = {"url": "url", "base64_string": "base64", "asset_id": "asset"}


@dataclass(frozen=True)
class Rules:
    """What holds for fields of any request; every method raises a refusal that names its field.

    Args:
        switches: How to read the rules that are documented in two ways.
    """

    switches: Switches

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        """Take a JSON object; null members count as absent, as the official SDK sends them for what is not set."""
        if not isinstance(value, dict):
            raise Refusal(f"{name} must be a JSON object.", None if " " in name else name)
        return {key: member for key, member in value.items() if member is not None}

    def known(self, value: dict[str, Any], names: set[str], parent: str) -> dict[str, Any]:
        """Refuse members that nobody knows, where the switches say so; `parent` is the path of the object."""
        unknown = sorted(set(value) - names)
        if unknown and self.switches.unknown_fields == "refuse":
            path = join(parent, unknown[0][:80])
            raise Refusal(f"{path} is not a known parameter.", path, None, UNKNOWN)
        return value

    def choice(self, value: dict[str, Any], name: str, words: tuple[str, ...], parent: str) -> str:
        """Take a member that must be one of some words."""
        path = join(parent, name)
        if name not in value:
            raise Refusal(f"{path} is required.", path, None, NOT_PROVIDED)
        if value[name] not in words:
            raise Refusal(f"{path} must be one of {listed(words)}.", path, value[name])
        return cast("str", value[name])

    def number(self, value: Any, path: str) -> float:
        """Take a number of seconds that is not negative."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refusal(f"{path} must be a number of seconds.", path, value)
        if value < 0:
            raise Refusal(f"{path} must not be negative.", path, value)
        return float(value)

    def words(
        self,
        value: dict[str, Any],
        name: str,
        allowed: tuple[str, ...],
        parent: str,
        default: tuple[str, ...],
    ) -> tuple[str, ...]:
        """Take a list of words without repetition; `default` where there is none."""
        path = join(parent, name)
        chosen = value.get(name, list(default))
        if not isinstance(chosen, list) or not chosen:
            raise Refusal(f"{path} must be a list of at least one of {listed(allowed)}.", path, chosen)
        for word in chosen:
            if word not in allowed:
                raise Refusal(f"{path} must hold only values of {listed(allowed)}.", path, word)
        unique = tuple(dict.fromkeys(chosen))
        if len(unique) != len(chosen) and self.switches.duplicates == "refuse":
            raise Refusal(f"{path} must not hold a value twice.", path, chosen)
        return unique

    def count(self, value: Any, path: str, lowest: int, highest: int) -> int:
        """Take a whole number within bounds."""
        whole = isinstance(value, int) if not isinstance(value, float) else value.is_integer()
        if isinstance(value, bool) or not whole or not lowest <= value <= highest:
            raise Refusal(f"{path} must be a whole number from {lowest} to {highest}.", path, value)
        return int(value)

    def source(self, media: dict[str, Any], path: str) -> tuple[SourceKind, str]:
        """Take the `media_source` of an object; `path` is that of the source."""
        if "media_source" not in media:
            raise Refusal(f"{path} is required.", path, None, NOT_PROVIDED)
        return self.one_source(self.known(self.mapping(media["media_source"], path), set(SOURCES), path), path)

    def one_source(self, source: dict[str, Any], path: str) -> tuple[SourceKind, str]:
        """Take the one source that an object names; the bytes of a base64 source are left out."""
        if len(source) != 1 or next(iter(source)) not in SOURCES:
            raise Refusal(f"{path} must have exactly one of url, base64_string and asset_id.", path, sorted(source))
        name, value = next(iter(source.items()))
        if not isinstance(value, str) or not value:
            raise Refusal(f"{path}.{name} must be a text that is not empty.", f"{path}.{name}")
        if name == "url":
            check_link(value, f"{path}.url")
        return SOURCES[name], "" if name == "base64_string" else value

    def vectors(self, top: dict[str, Any], *, newer: bool) -> tuple[int, bool]:
        """Take what the newer model lets a request say of all its vectors: their dimension and their uncertainty."""
        for name in ("embedding_dimension", "embedding_uncertainty"):
            if name in top and not newer and top[name] is not False:
                raise Refusal(f"{name} requires model_name marengo3.5.", name, top[name])
        dimension = top.get("embedding_dimension", 512)
        if isinstance(dimension, bool) or dimension not in DIMENSIONS:
            raise Refusal(f"embedding_dimension must be one of {listed(DIMENSIONS)}.", "embedding_dimension", dimension)
        uncertainty = top.get("embedding_uncertainty", False)
        if not isinstance(uncertainty, bool):
            raise Refusal("embedding_uncertainty must be true or false.", "embedding_uncertainty", uncertainty)
        return int(dimension), uncertainty


def join(parent: str, name: str) -> str:
    """Return the path of a member of the object at a path."""
    return f"{parent}.{name}" if parent else name


def listed(words: Iterable[object]) -> str:
    """Write words one after the other, for a message."""
    return ", ".join(str(word) for word in words)
