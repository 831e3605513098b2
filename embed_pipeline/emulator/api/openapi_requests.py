"""JSON schemas of what is asked to be embedded, one shape for each model and input type."""

from __future__ import annotations

from typing import Any

from embed_pipeline.emulator.rules.fields import DIMENSIONS
from embed_pipeline.emulator.rules.queries import LONGEST_NAME, MEDIA_TYPES, MOST_SOURCES
from embed_pipeline.emulator.rules.tasks import MODELS, OPTIONS

Schema = dict[str, Any]
_TEXT = {"type": "string", "minLength": 1}
_VECTORS = {"embedding_dimension": {"enum": list(DIMENSIONS)}, "embedding_uncertainty": {"type": "boolean"}}
_SECONDS = {"type": "number", "minimum": 0, "maximum": 10**6}


def object_of(properties: Schema, *required: str, closed: bool = False) -> Schema:
    """Describe an object; closed, it has no other members."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def list_of(schema: Schema) -> Schema:
    """Describe a list of one kind of item."""
    return {"type": "array", "items": schema}


def words_of(*words: str) -> Schema:
    """Describe a list of some words, each at most once."""
    return {"type": "array", "items": {"type": "string", "enum": list(words)}, "minItems": 1, "uniqueItems": True}


def _cut(name: str, highest: int) -> Schema:
    return object_of({name: {"type": "integer", "minimum": 2, "maximum": highest}}, name, closed=True)


def _segmentation(*strategies: str) -> Schema:
    """One shape for every strategy; the object named like the strategy comes with it, no other may."""
    cuts = {"fixed": _cut("duration_sec", 10), "dynamic": _cut("min_duration_sec", 5)}
    shapes = [
        object_of({"strategy": {"const": name}, name: cuts[name]}, "strategy", name, closed=True) for name in strategies
    ]
    return {"oneOf": shapes}


def _source() -> Schema:
    url = {"type": "string", "pattern": r"^(https?://[a-z0-9-]+\.[a-z]+|file://)/[!-~]*$"}
    named = {"url": url, "base64_string": _TEXT, "asset_id": _TEXT}
    return {"oneOf": [object_of({name: schema}, name, closed=True) for name, schema in named.items()]}


def create_schema() -> Schema:
    """Describe what creates a task."""
    media = [_media(model, kind) for model in MODELS for kind in ("video", "audio")]
    return {"oneOf": media}


def sync_schema() -> Schema:
    """Describe what is embedded at once."""
    older = {"model_name": {"const": "marengo3.0"}}
    words = {"input_text": _TEXT | {"maxLength": 2000}}
    media = {
        "text": object_of(words, "input_text", closed=True),
        "image": object_of({"media_source": _source()}, "media_source", closed=True),
        "text_image": object_of({"media_source": _source(), **words}, "media_source", "input_text", closed=True),
        "multi_input": _multi_input("image"),
    }
    shapes = [
        object_of({"input_type": {"const": kind}, **older, kind: shape}, "input_type", kind, closed=True)
        for kind, shape in media.items()
    ]
    shapes += [_media("marengo3.0", kind) for kind in ("video", "audio")]
    newer = _newer("multi_input", _multi_input(*MEDIA_TYPES))
    newer["properties"]["auto_truncate"] = {"type": "boolean"}
    return {"oneOf": [*shapes, newer]}


def _multi_input(*kinds: str) -> Schema:
    names = {"name": _TEXT | {"maxLength": LONGEST_NAME}, "media_type": {"type": "string", "enum": list(kinds)}}
    sources = [
        object_of({**names, **shape["properties"]}, "media_type", *shape["required"], closed=True)
        for shape in _source()["oneOf"]
    ]
    several = {"type": "array", "items": {"oneOf": sources}, "minItems": 1, "maxItems": MOST_SOURCES}
    properties = {
        "input_text": _TEXT | {"maxLength": 2000, "description": "References <@name> name media sources."},
        "media_sources": several,
    }
    return {"anyOf": [object_of(properties, name, closed=True) for name in properties]}


def _newer(kind: str, medium: Schema) -> Schema:
    top = {"input_type": {"const": kind}, "model_name": {"const": "marengo3.5"}, **_VECTORS, kind: medium}
    return object_of(top, "input_type", "model_name", kind, closed=True)


def _media(model: str, kind: str) -> Schema:
    """Describe a request for audio or video, for one model."""
    newer = model == "marengo3.5"
    strategies = ("fixed",) if kind == "audio" and not newer else ("fixed", "dynamic")
    cut = _segmentation(*strategies)
    timed = object_of(
        {"start": _SECONDS, "end": _SECONDS, "text": {"type": "string"}}, "start", "end", "text", closed=True
    )
    media = {
        "media_source": _source(),
        "start_sec": _SECONDS,
        "end_sec": _SECONDS | {"description": "Greater than start_sec."},
        "segmentation": object_of({"temporal": cut}, "temporal", closed=True) if newer else cut,
        "embedding_option": words_of(*OPTIONS[model, kind]),
        "embedding_scope": words_of("clip", "asset", *(["local"] if newer else [])),
        "embedding_type": words_of("separate_embedding", "fused_embedding"),
    }
    top: Schema = {"input_type": {"const": kind}, "model_name": {"const": model}}
    if newer:
        media["time_based_metadata"] = list_of(timed)
        top |= _VECTORS
    top[kind] = object_of(media, "media_source", closed=True)
    return object_of(top, "input_type", kind, *(["model_name"] if newer else []), closed=True)
