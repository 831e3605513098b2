"""The platform's rules for a request that creates an embedding task: JSON in, an accepted request or a refusal out.

Pure functions over values. Whether an asset exists or a URL answers is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.request import AcceptedRequest, InputType, Segmentation, SourceKind, TimedText
from embed_pipeline.emulator.settings import Switches

MODELS = ("marengo3.0", "marengo3.5")
DIMENSIONS = (128, 256, 512)
OPTIONS = {
    ("marengo3.0", "video"): ("visual", "audio", "transcription"),
    ("marengo3.0", "audio"): ("audio", "transcription"),
    ("marengo3.5", "video"): ("visual", "audio"),
    ("marengo3.5", "audio"): ("audio",),
}
_TYPES = ("separate_embedding", "fused_embedding")
_LONGEST = {"fixed": 10, "dynamic": 5}
_LENGTH_FIELD = {"fixed": "duration_sec", "dynamic": "min_duration_sec"}
_TOP_FIELDS = {
    "input_type",
    "model_name",
    "embedding_uncertainty",
    "embedding_dimension",
    "audio",
    "video",
    "document",
    "image",
}
_MEDIA_FIELDS = {
    "media_source",
    "start_sec",
    "end_sec",
    "segmentation",
    "embedding_option",
    "embedding_scope",
    "embedding_type",
    "time_based_metadata",
}
_SOURCES: dict[str, SourceKind] = {"url": "url", "base64_string": "base64", "asset_id": "asset"}


def validate(body: Any, switches: Switches) -> AcceptedRequest:
    """Hold a request to the platform's rules.

    Args:
        body: The decoded JSON of the request.
        switches: How to read the rules that are documented in two ways.

    Returns:
        The request with its defaults filled in. The bytes of a base64 source are left out of it.

    Raises:
        Refusal: If the platform would answer 400. It names the first field at fault.
    """
    rules = _Rules(switches)
    top = rules.known(rules.mapping(body, "the request body"), _TOP_FIELDS, "")
    input_type = rules.choice(top, "input_type", ("audio", "video", "document", "image"), "")
    model = top.get("model_name", "marengo3.0")
    if model not in MODELS:
        raise Refusal(f"model_name must be one of {_listed(MODELS)}.", "model_name", model)
    if input_type in ("document", "image"):
        if model == "marengo3.0":
            raise Refusal(f"input_type {input_type} requires model_name marengo3.5.", "input_type", input_type)
        raise Refusal(f"This emulator embeds audio and video; input_type {input_type} is not served.", "input_type")
    for other in ("audio", "video", "document", "image"):
        if other != input_type and other in top:
            raise Refusal(f"{other} must not be sent with input_type {input_type}.", other)
    if input_type not in top:
        raise Refusal(f"{input_type} is required with input_type {input_type}.", input_type, None, NOT_PROVIDED)
    newer = model == "marengo3.5"
    for name in ("embedding_dimension", "embedding_uncertainty"):
        if name in top and not newer and top[name] is not False:
            raise Refusal(f"{name} requires model_name marengo3.5.", name, top[name])
    dimension = top.get("embedding_dimension", 512)
    if isinstance(dimension, bool) or dimension not in DIMENSIONS:
        raise Refusal(f"embedding_dimension must be one of {_listed(DIMENSIONS)}.", "embedding_dimension", dimension)
    uncertainty = top.get("embedding_uncertainty", False)
    if not isinstance(uncertainty, bool):
        raise Refusal("embedding_uncertainty must be true or false.", "embedding_uncertainty", uncertainty)

    media = rules.known(rules.mapping(top[input_type], input_type), _MEDIA_FIELDS, input_type)
    kind, source = rules.source(media, f"{input_type}.media_source")
    start, end = rules.window(media, input_type)
    options = rules.options(media, model, input_type)
    scopes = rules.words(
        media,
        "embedding_scope",
        ("clip", "asset", "local") if newer else ("clip", "asset"),
        input_type,
        ("clip", "asset"),
    )
    if uncertainty and "asset" in scopes:
        raise Refusal(
            'embedding_uncertainty cannot be combined with the scope asset; set embedding_scope to ["clip"].',
            f"{input_type}.embedding_scope",
            list(scopes),
        )
    types = rules.types(media, newer, input_type, options)
    return AcceptedRequest(
        input_type=cast("InputType", input_type),
        model_name=model,
        source_kind=kind,
        source=source,
        options=options,
        scopes=scopes,
        types=types,
        segmentation=rules.segmentation(media.get("segmentation"), newer, input_type),
        start_sec=start,
        end_sec=end,
        dimension=int(dimension),
        uncertainty=uncertainty,
        timed_text=rules.timed_text(media, newer, types, input_type),
    )


NOT_PROVIDED = "parameter_not_provided"
UNKNOWN = "parameter_unknown"


@dataclass(frozen=True)
class _Rules:
    """The rules of single fields; every method raises a refusal that names its field."""

    switches: Switches

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        """Take a JSON object; null members count as absent, as the official SDK sends them for what is not set."""
        if not isinstance(value, dict):
            raise Refusal(f"{name} must be a JSON object.", None if " " in name else name)
        return {key: member for key, member in value.items() if member is not None}

    def known(self, value: dict[str, Any], names: set[str], parent: str) -> dict[str, Any]:
        unknown = sorted(set(value) - names)
        if unknown and self.switches.unknown_fields == "refuse":
            path = _join(parent, unknown[0][:80])
            raise Refusal(f"{path} is not a known parameter.", path, None, UNKNOWN)
        return value

    def choice(self, value: dict[str, Any], name: str, words: tuple[str, ...], parent: str) -> str:
        path = _join(parent, name)
        if name not in value:
            raise Refusal(f"{path} is required.", path, None, NOT_PROVIDED)
        if value[name] not in words:
            raise Refusal(f"{path} must be one of {_listed(words)}.", path, value[name])
        return cast("str", value[name])

    def number(self, value: Any, path: str) -> float:
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
        path = _join(parent, name)
        chosen = value.get(name, list(default))
        if not isinstance(chosen, list) or not chosen:
            raise Refusal(f"{path} must be a list of at least one of {_listed(allowed)}.", path, chosen)
        for word in chosen:
            if word not in allowed:
                raise Refusal(f"{path} must hold only values of {_listed(allowed)}.", path, word)
        unique = tuple(dict.fromkeys(chosen))
        if len(unique) != len(chosen) and self.switches.duplicates == "refuse":
            raise Refusal(f"{path} must not hold a value twice.", path, chosen)
        return unique

    def source(self, media: dict[str, Any], path: str) -> tuple[SourceKind, str]:
        if "media_source" not in media:
            raise Refusal(f"{path} is required.", path, None, NOT_PROVIDED)
        source = self.known(self.mapping(media["media_source"], path), set(_SOURCES), path)
        if len(source) != 1 or next(iter(source)) not in _SOURCES:
            raise Refusal(f"{path} must have exactly one of url, base64_string and asset_id.", path, sorted(source))
        name, value = next(iter(source.items()))
        if not isinstance(value, str) or not value:
            raise Refusal(f"{path}.{name} must be a text that is not empty.", f"{path}.{name}")
        if name == "url":
            _check_url(value, f"{path}.url")
        return _SOURCES[name], "" if name == "base64_string" else value

    def window(self, media: dict[str, Any], parent: str) -> tuple[float | None, float | None]:
        start = self.number(media["start_sec"], f"{parent}.start_sec") if "start_sec" in media else None
        end = self.number(media["end_sec"], f"{parent}.end_sec") if "end_sec" in media else None
        if end is not None and end <= (start or 0.0):
            raise Refusal(f"{parent}.end_sec must be greater than start_sec.", f"{parent}.end_sec", end)
        if end is not None and end - (start or 0.0) < self.switches.min_window_sec:
            shortest = self.switches.min_window_sec
            raise Refusal(f"The window from start_sec to end_sec must last at least {shortest:g} s.", parent)
        return start, end

    def options(self, media: dict[str, Any], model: str, input_type: str) -> tuple[str, ...]:
        allowed = OPTIONS[model, input_type]
        chosen = media.get("embedding_option")
        if model == "marengo3.5" and isinstance(chosen, list) and "transcription" in chosen:
            raise Refusal(
                "embedding_option transcription is not available with marengo3.5, whose audio option covers speech.",
                f"{input_type}.embedding_option",
                "transcription",
            )
        return self.words(media, "embedding_option", allowed, input_type, allowed)

    def types(self, media: dict[str, Any], newer: bool, parent: str, options: tuple[str, ...]) -> tuple[str, ...]:
        path = f"{parent}.embedding_type"
        if "embedding_type" in media and len(options) == 1 and self.switches.type_with_one_option == "refuse":
            raise Refusal(f"{path} may be sent only with two or more embedding options.", path)
        types = self.words(media, "embedding_type", _TYPES, parent, _TYPES[:1])
        if newer and "fused_embedding" in types and not media.get("time_based_metadata"):
            raise Refusal(f"{path} fused_embedding requires time_based_metadata.", path, list(types))
        return types

    def segmentation(self, value: Any, newer: bool, input_type: str) -> Segmentation:
        path = f"{input_type}.segmentation"
        if value is None:
            if newer:
                return Segmentation("dynamic", 2)
            return Segmentation("dynamic", 4) if input_type == "video" else Segmentation("fixed", 6)
        outer = self.mapping(value, path)
        if newer:
            if "temporal" not in outer:
                raise Refusal(f"{path} must be wrapped as {{temporal: ...}} with marengo3.5.", path)
            self.known(outer, {"temporal"}, path)
            path = f"{path}.temporal"
            outer = self.mapping(outer["temporal"], path)
        elif "temporal" in outer:
            raise Refusal(f"{path}.temporal requires model_name marengo3.5.", f"{path}.temporal")
        self.known(outer, {"strategy", "fixed", "dynamic"}, path)
        strategies = ("fixed",) if input_type == "audio" and not newer else ("fixed", "dynamic")
        strategy = self.choice(outer, "strategy", strategies, path)
        other = "dynamic" if strategy == "fixed" else "fixed"
        if other in outer:
            raise Refusal(f"{path}.{other} must not be sent with strategy {strategy}.", f"{path}.{other}")
        if strategy not in outer:
            missing = f"{path}.{strategy}"
            raise Refusal(f"{missing} is required with strategy {strategy}.", missing, None, NOT_PROVIDED)
        name = _LENGTH_FIELD[strategy]
        inner_path = f"{path}.{strategy}.{name}"
        inner = self.known(self.mapping(outer[strategy], f"{path}.{strategy}"), {name}, f"{path}.{strategy}")
        defaults = {"fixed": 6, "dynamic": 4}
        seconds = self.number(inner.get(name, defaults[strategy]), inner_path)
        lowest, highest = self.switches.min_segment_sec, _LONGEST[strategy]
        if seconds != int(seconds) or not lowest <= seconds <= highest:
            raise Refusal(f"{inner_path} must be a whole number from {lowest} to {highest}.", inner_path, seconds)
        return Segmentation("fixed" if strategy == "fixed" else "dynamic", int(seconds))

    def timed_text(
        self, media: dict[str, Any], newer: bool, types: tuple[str, ...], parent: str
    ) -> tuple[TimedText, ...]:
        path = f"{parent}.time_based_metadata"
        if "time_based_metadata" not in media:
            return ()
        if not newer:
            raise Refusal(f"{path} requires model_name marengo3.5.", path)
        if "fused_embedding" not in types:
            raise Refusal(f"{path} requires fused_embedding among the embedding types.", path)
        entries = media["time_based_metadata"]
        if not isinstance(entries, list):
            raise Refusal(f"{path} must be a list.", path)
        pieces = []
        for index, entry in enumerate(entries):
            here = f"{path}[{index}]"
            fields = self.known(self.mapping(entry, here), {"start", "end", "text"}, here)
            for name in ("start", "end", "text"):
                if name not in fields:
                    raise Refusal(f"{here}.{name} is required.", f"{here}.{name}", None, NOT_PROVIDED)
            start, end = self.number(fields["start"], f"{here}.start"), self.number(fields["end"], f"{here}.end")
            if end < start:
                raise Refusal(f"{here}.end must not lie before start.", f"{here}.end", end)
            if not isinstance(fields["text"], str):
                raise Refusal(f"{here}.text must be a text.", f"{here}.text")
            pieces.append(TimedText(start, end, fields["text"]))
        return tuple(pieces)


def _check_url(url: str, path: str) -> None:
    """Refuse what is no address of a file; the URL itself stays out of the message, it may be signed."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) or parts.scheme == "file"
    except ValueError:
        raise Refusal(f"{path} is not a valid URL.", path) from None
    if parts.scheme not in ("http", "https", "file") or not named:
        raise Refusal(f"{path} must be a direct http or https link to a media file.", path)


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def _listed(words: Iterable[object]) -> str:
    return ", ".join(str(word) for word in words)
