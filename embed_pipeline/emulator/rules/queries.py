"""The platform's rules for a request to embed something at once: JSON in, an accepted request or a refusal out.

Pure functions over values. What a file holds is not decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.fields import NOT_PROVIDED, SOURCES, Rules, listed
from embed_pipeline.emulator.rules.rate_limits import Category
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest, InputType, SourceKind
from embed_pipeline.emulator.rules.tasks import MODELS, validate
from embed_pipeline.emulator.rules.tokens import CHARACTERS_PER_TOKEN, text_tokens

SyncType: TypeAlias = Literal["text", "image", "text_image", "audio", "video", "multi_input"]
SYNC_TYPES: tuple[SyncType, ...] = ("text", "image", "text_image", "audio", "video", "multi_input")
MEDIA_TYPES: tuple[InputType, ...] = ("image", "video", "audio")
MOST_SOURCES = 10
LONGEST_NAME = 255
TEXT_TOKENS = {"marengo3.0": 500, "marengo3.5": 2000}
"""How many tokens of text a request may hold, as documented; how they are counted is not."""

_REFERENCE = re.compile(r"<@([^<>]*)>")
_OPTIONS: dict[InputType, tuple[str, ...]] = {
    "image": ("visual",),
    "video": ("visual", "audio"),
    "audio": ("audio",),
}


@dataclass(frozen=True)
class SyncSource:
    """A medium that is to be embedded at once.

    Attributes:
        request: What to embed of it, in the terms of a task.
        field: The path of its source in the request.
        base64: The text of a base64 source.
    """

    request: AcceptedRequest
    field: str
    base64: str | None = None


@dataclass(frozen=True)
class SyncRequest:
    """What a valid request asks for.

    Attributes:
        input_type: One of `SYNC_TYPES`.
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

    @property
    def timed(self) -> bool:
        """Whether any medium has a length."""
        return any(source.request.timed for source in self.sources)


def accept_sync(body: Any, switches: Switches) -> SyncRequest:
    """Hold a request to the platform's rules.

    Args:
        body: The decoded JSON of the request.
        switches: How to read the rules that are documented in two ways.

    Returns:
        The request with its defaults filled in.

    Raises:
        Refusal: If the platform would answer 400. It names the first field at fault.
    """
    rules = Rules(switches)
    names = {"input_type", "model_name", "auto_truncate", "embedding_uncertainty", "embedding_dimension", *SYNC_TYPES}
    top = rules.known(rules.mapping(body, "the request body"), names, "")
    input_type = cast("SyncType", rules.choice(top, "input_type", SYNC_TYPES, ""))
    model = top.get("model_name", MODELS[0])
    if model not in MODELS:
        raise Refusal(f"model_name must be one of {listed(MODELS)}.", "model_name", model)
    newer = model == "marengo3.5"
    if newer and input_type != "multi_input":
        message = f"input_type {input_type} requires model_name marengo3.0; marengo3.5 takes multi_input here."
        raise Refusal(message, "input_type", input_type)
    for other in SYNC_TYPES:
        if other != input_type and other in top:
            raise Refusal(f"{other} must not be sent with input_type {input_type}.", other)
    if input_type not in top:
        raise Refusal(f"{input_type} is required with input_type {input_type}.", input_type, None, NOT_PROVIDED)
    dimension, uncertainty = rules.vectors(top, newer=newer)
    cut = top.get("auto_truncate", False)
    if not isinstance(cut, bool):
        raise Refusal("auto_truncate must be true or false.", "auto_truncate", cut)
    if cut and not newer:
        raise Refusal("auto_truncate requires model_name marengo3.5.", "auto_truncate", value=True)
    medium = rules.mapping(top[input_type], input_type)
    sources: tuple[SyncSource, ...] = ()
    if input_type in ("audio", "video"):
        accepted = validate({"input_type": input_type, "model_name": model, input_type: medium}, switches)
        base64 = medium["media_source"].get("base64_string")
        return SyncRequest(input_type, model, sources=(SyncSource(accepted, f"{input_type}.media_source", base64),))
    text = _text(medium, input_type, required=input_type in ("text", "text_image"))
    if input_type == "multi_input":
        rules.known(medium, {"input_text", "media_sources"}, input_type)
        text, sources = _multi_input(rules, medium, text, model, dimension, uncertainty=uncertainty)
    elif input_type == "text":
        rules.known(medium, {"input_text"}, input_type)
    else:
        rules.known(medium, {"media_source", *(["input_text"] if input_type == "text_image" else [])}, input_type)
        path = f"{input_type}.media_source"
        kind, source = rules.source(medium, path)
        base64 = medium["media_source"].get("base64_string")
        sources = (SyncSource(_whole("image", model, kind, source, 512, uncertainty=False), path, base64),)
    text, truncated = _within(text, model, input_type, cut=cut)
    return SyncRequest(input_type, model, text, truncated, sources, dimension, uncertainty)


def _text(medium: dict[str, Any], parent: str, *, required: bool) -> str:
    path = f"{parent}.input_text"
    text = medium.get("input_text", "")
    if not isinstance(text, str):
        raise Refusal(f"{path} must be a text.", path)
    if required and not text.strip():
        raise Refusal(f"{path} is required and must not be empty.", path, None, NOT_PROVIDED)
    return text


def _within(text: str, model: str, parent: str, *, cut: bool) -> tuple[str, bool]:
    most = TEXT_TOKENS[model]
    if text_tokens(len(text)) <= most:
        return text, False
    if not cut:
        remedy = " or set auto_truncate" if model == "marengo3.5" else ""
        path = f"{parent}.input_text"
        raise Refusal(f"{path} has {text_tokens(len(text))} tokens; send at most {most}{remedy}.", path)
    return text[: most * CHARACTERS_PER_TOKEN], True


def _whole(
    kind: InputType, model: str, source_kind: SourceKind, source: str, dimension: int, *, uncertainty: bool
) -> AcceptedRequest:
    """Describe one vector for a whole medium in the terms of a task."""
    return AcceptedRequest(
        input_type=kind,
        model_name=model,
        source_kind=source_kind,
        source=source,
        options=_OPTIONS[kind],
        scopes=("asset",),
        types=("separate_embedding",),
        dimension=dimension,
        uncertainty=uncertainty,
    )


def _multi_input(
    rules: Rules, medium: dict[str, Any], text: str, model: str, dimension: int, *, uncertainty: bool
) -> tuple[str, tuple[SyncSource, ...]]:
    path = "multi_input.media_sources"
    entries = medium.get("media_sources", [])
    if not isinstance(entries, list) or len(entries) > MOST_SOURCES:
        raise Refusal(f"{path} must be a list of at most {MOST_SOURCES} media sources.", path)
    if not entries and not text.strip():
        raise Refusal("multi_input must have input_text, media_sources or both.", "multi_input", None, NOT_PROVIDED)
    allowed = MEDIA_TYPES if model == "marengo3.5" else MEDIA_TYPES[:1]
    sources, names = [], list[str]()
    for index, entry in enumerate(entries):
        here = f"{path}[{index}]"
        fields = rules.known(rules.mapping(entry, here), {"name", "media_type", *SOURCES}, here)
        kind = cast("InputType", rules.choice(fields, "media_type", allowed, here))
        if "name" in fields:
            name = fields["name"]
            if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME or name in names:
                raise Refusal(f"{here}.name must be a text that no other source is named by.", f"{here}.name")
            names.append(name)
        named = {name: value for name, value in fields.items() if name in SOURCES}
        source_kind, source = rules.one_source(named, here)
        # How uncertain several media are together is told by how far they differ; a single one tells it itself.
        alone = uncertainty and len(entries) == 1
        request = _whole(kind, model, source_kind, source, dimension, uncertainty=alone)
        sources.append(SyncSource(request, here, fields.get("base64_string")))
    for name in _REFERENCE.findall(text):
        if name not in names:
            raise Refusal(f"multi_input.input_text names <@{name[:80]}>, but no media source has that name.", path)
    kinds = {source.request.input_type for source in sources}
    if len(kinds) > 1 and not text.strip():
        message = "multi_input.input_text is required where media sources of different types are combined."
        raise Refusal(message, "multi_input.input_text", None, NOT_PROVIDED)
    if uncertainty and sources and text.strip():
        message = "embedding_uncertainty is available for text alone or for media alone."
        raise Refusal(message, "embedding_uncertainty", value=True)
    return _REFERENCE.sub(" ", text).strip(), tuple(sources)


def category_of(body: Any) -> Category:
    """Return the rate limit category of a request that is not validated yet: audio and video draw on that of tasks."""
    if not isinstance(body, dict):
        return "text_image"
    multi = body.get("multi_input")
    sources = multi.get("media_sources") if isinstance(multi, dict) else None
    kinds = (
        [source.get("media_type") for source in sources or [] if isinstance(source, dict)]
        if isinstance(sources, list)
        else []
    )
    return "embed" if {"audio", "video"} & {str(kind) for kind in [body.get("input_type"), *kinds]} else "text_image"
