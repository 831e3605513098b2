"""Acceptance of requests: JSON in, a valid request with its defaults or a refusal out. Pure functions over values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ValidationError

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules import schema
from embed_pipeline.emulator.rules.rate_limits import Category
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest, InputType, Segmentation, SourceKind, TimedText
from embed_pipeline.emulator.rules.schema import QUERIES, TASKS, Models
from embed_pipeline.emulator.rules.tokens import CHARACTERS_PER_TOKEN, text_tokens

SyncType: TypeAlias = Literal["text", "image", "text_image", "audio", "video", "multi_input"]
Model = TypeVar("Model", bound=BaseModel)

TEXT_TOKENS = {"marengo3.0": 500, "marengo3.5": 2000}
"""How many tokens of text a request may hold, as documented; how they are counted is not."""

_USUAL = Switches()
_SOURCE_KINDS: dict[str, SourceKind] = {"url": "url", "base64_string": "base64", "asset_id": "asset"}
_OPTIONS: dict[str, tuple[str, ...]] = {"image": ("visual",), "video": ("visual", "audio"), "audio": ("audio",)}
_PRIVATE = ("url", "base64_string", "input_text", "proof")
# Fields of another model or input type are not unknown: the message for them differs.
_MODELS: tuple[type[BaseModel], ...] = (
    *TASKS.values(),
    *QUERIES.values(),
    *(schema.Video35, schema.TemporalSegmentation, schema.FixedSegmentation, schema.DynamicSegmentation),
)
_KNOWN = {name for model in _MODELS for name in model.model_fields}


@dataclass(frozen=True)
class SyncSource:
    """A medium that is to be embedded at once.

    Args:
        request: What to embed of it, in the terms of a task.
        field: The path of its source in the request.
        base64: The text of a base64 source.
    """

    request: AcceptedRequest
    field: str
    base64: str | None = None


@dataclass(frozen=True)
class SyncRequest:
    """A valid request to embed something at once.

    Args:
        input_type: The request's.
        model_name: `marengo3.0` or `marengo3.5`.
        text: The text to embed, references to sources taken out; empty if there is none.
        truncated: Whether text was cut off.
        sources: The media to embed, in order.
        dimension: Length of the vectors.
        uncertainty: Whether a vector comes with its uncertainty.
    """

    input_type: SyncType
    model_name: str
    text: str = ""
    truncated: bool = False
    sources: tuple[SyncSource, ...] = ()
    dimension: int = 512
    uncertainty: bool = False


def accept_task(body: Any, switches: Switches) -> AcceptedRequest:
    """Hold a request that creates a task to the platform's rules.

    Args:
        body: The decoded JSON of the request.
        switches: How to read the rules that are documented in two ways.

    Returns:
        The request with its defaults filled in. The bytes of a base64 source are left out of it.

    Raises:
        Refusal: If the platform would answer 400. It names the first field at fault.
    """
    return _timed(_chosen(body, TASKS, switches))


def accept_query(body: Any, switches: Switches) -> SyncRequest:
    """Hold a request to embed something at once to the platform's rules; see `accept_task`."""
    request: Any = _chosen(body, QUERIES, switches)
    kind, model = cast("SyncType", request.input_type), request.model_name
    medium = getattr(request, kind)
    if kind in ("audio", "video"):
        source = SyncSource(_timed(request), f"{kind}.media_source", medium.media_source.base64_string)
        return SyncRequest(kind, model, sources=(source,))
    dimension: int = getattr(request, "embedding_dimension", 512)
    uncertainty: bool = request.embedding_uncertainty
    text: str = medium.words if kind == "multi_input" else getattr(medium, "input_text", "")
    text, truncated = _within(text, model, kind, cut=getattr(request, "auto_truncate", False))
    sources: tuple[SyncSource, ...] = ()
    if kind == "multi_input":
        # The uncertainty of several media together is how far they differ; a single one has its own.
        alone = uncertainty and len(medium.media_sources) == 1
        sources = tuple(
            _whole(source.media_type, model, source, f"{kind}.media_sources[{index}]", dimension, uncertainty=alone)
            for index, source in enumerate(medium.media_sources)
        )
    elif kind != "text":
        sources = (_whole("image", model, medium.media_source, f"{kind}.media_source", 512, uncertainty=False),)
    return SyncRequest(kind, model, text, truncated, sources, dimension, uncertainty)


def checked(model: type[Model], body: Any, switches: Switches = _USUAL) -> Model:
    """Validate a JSON body.

    Args:
        model: What it must be.
        body: The decoded JSON.
        switches: How to read the rules that are documented in two ways.

    Raises:
        Refusal: If the platform would answer 400. It names the first field at fault.
    """
    if not isinstance(body, dict):
        raise Refusal("The request body must be a JSON object.")
    while True:
        try:
            return model.model_validate(body, context=switches)
        except ValidationError as caught:
            errors = cast("list[dict[str, Any]]", caught.errors(include_url=False))
        unknown = [error for error in errors if error["type"] == "extra_forbidden" and error["loc"][-1] not in _KNOWN]
        if not unknown or switches.unknown_fields == "refuse":
            raise _refusal(errors)
        body = _without(body, [_location(error) for error in unknown])


def category_of(body: Any) -> Category:
    """Return the rate limit category of a request that is not validated yet: audio and video draw on that of tasks."""
    if not isinstance(body, dict):
        return "text_image"
    multi = body.get("multi_input")
    named = multi.get("media_sources") if isinstance(multi, dict) else None
    sources = named if isinstance(named, list) else []
    kinds = (
        [source.get("media_type") for source in sources if isinstance(source, dict)]
        if isinstance(sources, list)
        else []
    )
    return "embed" if {"audio", "video"} & {str(kind) for kind in [body.get("input_type"), *kinds]} else "text_image"


def _chosen(body: Any, models: Models, switches: Switches) -> BaseModel:
    """Validate a body by the model that its `model_name` and `input_type` call for."""
    top = {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else None
    if top is None:
        raise Refusal("The request body must be a JSON object.")
    names, kinds = (tuple(dict.fromkeys(key[part] for key in models)) for part in (0, 1))
    kind, name = top.get("input_type"), top.get("model_name", names[0])
    if kind is None:
        raise Refusal("input_type is required.", "input_type", code="parameter_not_provided")
    if kind not in kinds:
        raise Refusal(f"input_type must be one of {', '.join(kinds)}.", "input_type", kind)
    if name not in names:
        raise Refusal(f"model_name must be one of {', '.join(names)}.", "model_name", name)
    if (name, kind) not in models:
        message = f"input_type {kind} requires model_name {next(other for other, of in models if of == kind)}."
        raise Refusal(message, "input_type", kind)
    return checked(models[name, kind], top, switches)


def _timed(request: Any) -> AcceptedRequest:
    kind: InputType = request.input_type
    media: schema.Media = getattr(request, kind)
    source_kind, source = _source(media.media_source)
    pieces = getattr(media, "time_based_metadata", ())
    return AcceptedRequest(
        input_type=kind,
        model_name=request.model_name,
        source_kind=source_kind,
        source=source,
        options=tuple(media.embedding_option),
        scopes=tuple(media.embedding_scope),
        types=tuple(media.embedding_type),
        segmentation=Segmentation(media.cut.strategy, media.cut.seconds),
        start_sec=media.start_sec,
        end_sec=media.end_sec,
        dimension=getattr(request, "embedding_dimension", 512),
        uncertainty=request.embedding_uncertainty,
        timed_text=tuple(TimedText(piece.start, piece.end, piece.text) for piece in pieces),
    )


def _source(source: schema.MediaSource) -> tuple[SourceKind, str]:
    """Return the kind of a source and its name; base64 has none."""
    name = next(name for name in schema.SOURCES if getattr(source, name) is not None)
    return _SOURCE_KINDS[name], "" if name == "base64_string" else getattr(source, name)


def _whole(
    kind: InputType, model: str, source: schema.MediaSource, field: str, dimension: int, *, uncertainty: bool
) -> SyncSource:
    """Describe one vector for a whole medium in the terms of a task."""
    source_kind, name = _source(source)
    request = AcceptedRequest(
        input_type=kind,
        model_name=model,
        source_kind=source_kind,
        source=name,
        options=_OPTIONS[kind],
        scopes=("asset",),
        types=("separate_embedding",),
        dimension=dimension,
        uncertainty=uncertainty,
    )
    return SyncSource(request, field, source.base64_string)


def _within(text: str, model: str, parent: str, *, cut: bool) -> tuple[str, bool]:
    most = TEXT_TOKENS[model]
    if text_tokens(len(text)) <= most:
        return text, False
    if not cut:
        remedy = " or set auto_truncate" if model == "marengo3.5" else ""
        path = f"{parent}.input_text"
        raise Refusal(f"{path} has {text_tokens(len(text))} tokens; send at most {most}{remedy}.", path)
    return text[: most * CHARACTERS_PER_TOKEN], True


def _refusal(errors: list[dict[str, Any]]) -> Refusal:
    """Write the first error as the platform does; wrong values and fields go before those that are missing."""
    error = min(errors, key=lambda error: {"literal_error": 0, "extra_forbidden": 1}.get(error["type"], 2))
    field = _path(_location(error))
    code = "parameter_invalid"
    match error["type"]:
        case "missing":
            code, message = "parameter_not_provided", "is required."
        case "extra_forbidden" if error["loc"][-1] in _KNOWN:
            message = "does not go with this model and input type."
        case "extra_forbidden":
            code, message = "parameter_unknown", "is not a known parameter."
        case "rule":
            message = error["ctx"]["message"]
            field = ".".join(part for part in (field, error["ctx"]["field"]) if part)
        case "literal_error":
            field, message = (
                field.partition("[")[0] if field.endswith("]") else field,
                f"must be {error['ctx']['expected']}.",
            )
        case _:
            message = f"is not valid: {error['msg']}."
    value = error["input"] if isinstance(error["input"], str | int | float) else None
    if error["loc"] and error["loc"][-1] in _PRIVATE:
        value = None
    return Refusal(f"{field or 'The request'} {message}", field or None, value, code)


def _location(error: dict[str, Any]) -> tuple[str | int, ...]:
    """Return where an error is, without the tags of unions."""
    return tuple(part for part in error["loc"] if not str(part).startswith("<"))


def _path(location: Iterable[str | int]) -> str:
    """Write a location as the platform does, such as `multi_input.media_sources[0].url`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if path else part[:80]
    return path


def _without(body: Any, locations: Sequence[Sequence[str | int]]) -> Any:
    """Return a copy of a body without the members at some locations."""
    if not isinstance(body, dict | list):
        return body
    here = {location[0] for location in locations if len(location) == 1}
    kept = {
        key: _without(item, [rest for first, *rest in locations if first == key and rest])
        for key, item in (enumerate(body) if isinstance(body, list) else body.items())
        if key not in here
    }
    return kept if isinstance(body, dict) else list(kept.values())
