"""The platform's rules for a request that creates an embedding task: JSON in, an accepted request or a refusal out.

Pure functions over values. Whether an asset exists or a URL answers is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.fields import NOT_PROVIDED, Rules, listed
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest, InputType, Segmentation, TimedText

MODELS = ("marengo3.0", "marengo3.5")
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
}
_INPUT_TYPES = ("audio", "video")
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
    rules = _MediaRules(switches)
    top = rules.mapping(body, "the request body")
    input_type = cast("InputType", rules.choice(top, "input_type", _INPUT_TYPES, ""))
    rules.known(top, _TOP_FIELDS, "")
    model = top.get("model_name", "marengo3.0")
    if model not in MODELS:
        raise Refusal(f"model_name must be one of {listed(MODELS)}.", "model_name", model)
    for other in _INPUT_TYPES:
        if other != input_type and other in top:
            raise Refusal(f"{other} must not be sent with input_type {input_type}.", other)
    if input_type not in top:
        raise Refusal(f"{input_type} is required with input_type {input_type}.", input_type, None, NOT_PROVIDED)
    newer = model == "marengo3.5"
    dimension, uncertainty = rules.vectors(top, newer=newer)
    media = rules.mapping(top[input_type], input_type)
    rules.known(media, _MEDIA_FIELDS, input_type)
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
        input_type=input_type,
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


@dataclass(frozen=True)
class _MediaRules(Rules):
    """The rules of audio and video, which have a length."""

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
        lowest, highest = self.switches.min_segment_sec, _LONGEST[strategy]
        seconds = self.count(inner.get(name, defaults[strategy]), inner_path, lowest, highest)
        return Segmentation("fixed" if strategy == "fixed" else "dynamic", seconds)

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
