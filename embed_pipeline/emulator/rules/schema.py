"""Requests as the platform takes them: the one place for their fields, bounds and defaults.

The OpenAPI document is made from these models, and requests are checked by them (`accept.py`). What the platform's
documentation leaves open is decided by the switches, which are the context of validation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from embed_pipeline.emulator.control.behaviour import Switches
from embed_pipeline.emulator.rules.urls import link_fault

DIMENSIONS = (128, 256, 512)
SOURCES = ("url", "base64_string", "asset_id")
MOST_SOURCES = 10
MOST_AT_ONCE = 50
_LINK_PATTERN = r"^(https?://[a-z0-9-]+\.[a-z]+|file://)/[!-~]*$"
_REFERENCE = re.compile(r"<@([^<>]*)>")


def rule_error(message: str, field: str = "") -> PydanticCustomError:
    """Describe a broken rule.

    Args:
        message: What is wrong; the path of the field is put before it.
        field: The field at fault, below the model that is validated.
    """
    return PydanticCustomError("rule", "{message}", {"message": message, "field": field})


def _switches(info: ValidationInfo) -> Switches:
    return info.context if isinstance(info.context, Switches) else Switches()


def _unique(values: list[Any], info: ValidationInfo) -> list[Any]:
    unique = list(dict.fromkeys(values))
    if len(unique) != len(values) and _switches(info).duplicates == "refuse":
        raise rule_error("must not hold a value twice.")
    return unique


def _link(url: str) -> str:
    fault = link_fault(url)
    if fault is not None:
        raise rule_error(fault)
    return url


def _segment(highest: int) -> Callable[[int, ValidationInfo], int]:
    def check(seconds: int, info: ValidationInfo) -> int:
        lowest = _switches(info).min_segment_sec
        if not lowest <= seconds <= highest:
            raise rule_error(f"must be a whole number from {lowest} to {highest}.")
        return seconds

    return check


Word = TypeVar("Word")
Words = Annotated[list[Word], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_unique)]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False, json_schema_extra={"maximum": 10**6})]
# 6.0 is a whole number in JSON, "6" and true are none.
Whole = Annotated[
    int, Strict(), BeforeValidator(lambda value: int(value) if value.__class__ is float and value % 1 == 0 else value)
]
Flag = Annotated[bool, Strict()]
EmbeddingType = Literal["separate_embedding", "fused_embedding"]


class Closed(BaseModel):
    """A JSON object with no further members; null members count as absent, as the official SDK sends them."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _one_source(schema: dict[str, Any]) -> None:
    """Describe a media source as one shape for each kind of source."""
    properties, required = schema.pop("properties"), schema.pop("required", [])
    common = {name: value for name, value in properties.items() if name not in SOURCES}
    schema["oneOf"] = [
        {
            "type": "object",
            "properties": {**common, name: properties[name]["anyOf"][0]},
            "required": [*required, name],
            "additionalProperties": False,
        }
        for name in SOURCES
    ]
    schema.pop("type")
    schema.pop("additionalProperties")


class MediaSource(Closed):
    """A media source: exactly one of its members."""

    model_config = ConfigDict(json_schema_extra=_one_source)

    url: Annotated[Text, Field(json_schema_extra={"pattern": _LINK_PATTERN}), AfterValidator(_link)] | None = None
    base64_string: Text | None = None
    asset_id: Text | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> MediaSource:
        if sum(getattr(self, name) is not None for name in SOURCES) != 1:
            raise rule_error(f"must have exactly one of {', '.join(SOURCES)}.")
        return self


class FixedCut(Closed):
    """Windows of one length."""

    duration_sec: Annotated[
        Whole, AfterValidator(_segment(10)), WithJsonSchema({"type": "integer", "minimum": 2, "maximum": 10})
    ] = 6


class DynamicCut(Closed):
    """Segments that follow the content."""

    min_duration_sec: Annotated[
        Whole, AfterValidator(_segment(5)), WithJsonSchema({"type": "integer", "minimum": 2, "maximum": 5})
    ] = 4


class FixedSegmentation(Closed):
    """Segmentation into windows of one length."""

    strategy: Literal["fixed"]
    fixed: FixedCut

    @property
    def seconds(self) -> int:
        """The length of a window."""
        return self.fixed.duration_sec


class DynamicSegmentation(Closed):
    """Segmentation by content."""

    strategy: Literal["dynamic"]
    dynamic: DynamicCut

    @property
    def seconds(self) -> int:
        """The shortest segment."""
        return self.dynamic.min_duration_sec


def _strategy(value: Any) -> str:
    named = value.get("strategy") if isinstance(value, dict) else getattr(value, "strategy", None)
    return "<dynamic>" if named == "dynamic" else "<fixed>"


Cut = Annotated[
    Annotated[FixedSegmentation, Tag("<fixed>")] | Annotated[DynamicSegmentation, Tag("<dynamic>")],
    Discriminator(_strategy),
]


class TemporalSegmentation(Closed):
    """The newer model's wrapper of a segmentation."""

    temporal: Cut


class TimedText(Closed):
    """A piece of text that belongs to a stretch of the file."""

    start: Seconds
    end: Seconds
    text: str

    @model_validator(mode="after")
    def _in_order(self) -> TimedText:
        if self.end < self.start:
            raise rule_error("must not lie before start.", "end")
        return self


def _dynamic(seconds: int) -> DynamicSegmentation:
    return DynamicSegmentation(strategy="dynamic", dynamic=DynamicCut(min_duration_sec=seconds))


class Media(Closed):
    """Audio or video that is to be embedded, whichever model does it."""

    media_source: MediaSource
    start_sec: Seconds | None = None
    end_sec: Annotated[Seconds | None, Field(description="Greater than start_sec.")] = None
    embedding_option: Any
    embedding_scope: Any
    embedding_type: Words[EmbeddingType] = ["separate_embedding"]
    segmentation: Any

    @model_validator(mode="after")
    def _window(self, info: ValidationInfo) -> Media:
        start, switches = self.start_sec or 0.0, _switches(info)
        if self.end_sec is not None and self.end_sec <= start:
            raise rule_error("must be greater than start_sec.", "end_sec")
        if self.end_sec is not None and self.end_sec - start < switches.min_window_sec:
            raise rule_error(f"must lie at least {switches.min_window_sec:g} s after start_sec.", "end_sec")
        one = len(self.embedding_option) == 1 and switches.type_with_one_option == "refuse"
        if one and "embedding_type" in self.model_fields_set:
            raise rule_error("may be sent only with two or more embedding options.", "embedding_type")
        return self

    @property
    def cut(self) -> FixedSegmentation | DynamicSegmentation:
        """The segmentation without its wrapper."""
        cut: FixedSegmentation | DynamicSegmentation = getattr(self.segmentation, "temporal", self.segmentation)
        return cut


class Video30(Media):
    """Video for Marengo 3.0."""

    embedding_option: Words[Literal["visual", "audio", "transcription"]] = ["visual", "audio", "transcription"]
    embedding_scope: Words[Literal["clip", "asset"]] = ["clip", "asset"]
    segmentation: Cut = _dynamic(4)


class Audio30(Media):
    """Audio for Marengo 3.0."""

    embedding_option: Words[Literal["audio", "transcription"]] = ["audio", "transcription"]
    embedding_scope: Words[Literal["clip", "asset"]] = ["clip", "asset"]
    segmentation: FixedSegmentation = FixedSegmentation(strategy="fixed", fixed=FixedCut())


class Media35(Media):
    """Audio or video for Marengo 3.5, whose audio option covers speech."""

    embedding_scope: Words[Literal["clip", "asset", "local"]] = ["clip", "asset"]
    segmentation: TemporalSegmentation = TemporalSegmentation(temporal=_dynamic(2))
    time_based_metadata: list[TimedText] = []

    @model_validator(mode="after")
    def _fused(self) -> Media35:
        fused = "fused_embedding" in self.embedding_type
        if fused and not self.time_based_metadata:
            raise rule_error("fused_embedding requires time_based_metadata.", "embedding_type")
        if not fused and "time_based_metadata" in self.model_fields_set:
            raise rule_error("requires fused_embedding among the embedding types.", "time_based_metadata")
        return self


class Video35(Media35):
    """Video for Marengo 3.5."""

    embedding_option: Words[Literal["visual", "audio"]] = ["visual", "audio"]


class Audio35(Media35):
    """Audio for Marengo 3.5."""

    embedding_option: Words[Literal["audio"]] = ["audio"]


class Words30(Closed):
    """Words."""

    input_text: Annotated[Text, Field(max_length=None, json_schema_extra={"maxLength": 2000})]

    @model_validator(mode="after")
    def _not_blank(self) -> Words30:
        if not self.input_text.strip():
            raise rule_error("must not be blank.", "input_text")
        return self


class Image30(Closed):
    """An image."""

    media_source: MediaSource


class ImageWithWords30(Words30):
    """An image and words."""

    media_source: MediaSource


class NamedSource(MediaSource):
    """A medium beside others."""

    name: Annotated[Text, Field(max_length=255)] | None = None
    media_type: Literal["image", "video", "audio"]


class NamedImage(NamedSource):
    """An image beside others."""

    media_type: Literal["image"]


class Multi(Closed):
    """Several media, words, or both."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    input_text: Annotated[str, Field(description="References <@name> name media sources.")] = ""
    media_sources: Any

    @model_validator(mode="after")
    def _combination(self) -> Multi:
        names: list[str] = []
        for index, source in enumerate(self.media_sources):
            if source.name in names:
                raise rule_error("must be a name that no other source has.", f"media_sources[{index}].name")
            names += [] if source.name is None else [source.name]
        for name in _REFERENCE.findall(self.input_text):
            if name not in names:
                raise rule_error(f"has no source of the name {name[:80]!r} that input_text refers to.", "media_sources")
        if not self.media_sources and not self.input_text.strip():
            raise rule_error("must have input_text, media_sources or both.")
        if len({source.media_type for source in self.media_sources}) > 1 and not self.input_text.strip():
            raise rule_error("is required where media sources of different types are combined.", "input_text")
        return self

    @property
    def words(self) -> str:
        """The text without the references to sources."""
        return _REFERENCE.sub(" ", self.input_text).strip()


class Multi30(Multi):
    """Images, words, or both, for Marengo 3.0."""

    media_sources: Annotated[list[NamedImage], Field(max_length=MOST_SOURCES)] = []


class Multi35(Multi):
    """Several media, words, or both, for Marengo 3.5."""

    media_sources: Annotated[list[NamedSource], Field(max_length=MOST_SOURCES)] = []


class Request30(Closed):
    """Fields of every request for Marengo 3.0."""

    model_name: Literal["marengo3.0"] = "marengo3.0"
    embedding_uncertainty: Literal[False] = False


class Request35(Closed):
    """Fields of every request for Marengo 3.5."""

    model_name: Literal["marengo3.5"]
    embedding_dimension: Annotated[Whole, WithJsonSchema({"enum": list(DIMENSIONS)})] = 512
    embedding_uncertainty: Flag = False

    @model_validator(mode="after")
    def _vectors(self) -> Request35:
        if self.embedding_dimension not in DIMENSIONS:
            raise rule_error(f"must be one of {', '.join(map(str, DIMENSIONS))}.", "embedding_dimension")
        kind: str = getattr(self, "input_type")  # noqa: B009 - a field of every subclass
        medium = getattr(self, kind)
        if self.embedding_uncertainty and "asset" in getattr(medium, "embedding_scope", ()):
            message = 'asset cannot be combined with embedding_uncertainty; set embedding_scope to ["clip"].'
            raise rule_error(message, f"{kind}.embedding_scope")
        sources: Any = getattr(medium, "media_sources", None)
        if self.embedding_uncertainty and sources and medium.input_text.strip():
            raise rule_error("is available for text alone or for media alone.", "embedding_uncertainty")
        return self


def _request(base: type[Closed], kind: str, medium: type[Closed], **fields: Any) -> type[BaseModel]:
    """Return the model of a request: its input type, and the object of that name."""
    members: dict[str, Any] = {"input_type": (Literal[kind], ...), kind: (medium, ...), **fields}
    return create_model(f"Embed{medium.__name__}", __base__=base, **members)


Models: TypeAlias = dict[tuple[str, str], type[BaseModel]]
TASKS: Models = {
    ("marengo3.0", "video"): _request(Request30, "video", Video30),
    ("marengo3.0", "audio"): _request(Request30, "audio", Audio30),
    ("marengo3.5", "video"): _request(Request35, "video", Video35),
    ("marengo3.5", "audio"): _request(Request35, "audio", Audio35),
}
"""Requests that create a task, by model and input type."""

QUERIES: Models = {
    **{key: model for key, model in TASKS.items() if key[0] == "marengo3.0"},
    ("marengo3.0", "text"): _request(Request30, "text", Words30),
    ("marengo3.0", "image"): _request(Request30, "image", Image30),
    ("marengo3.0", "text_image"): _request(Request30, "text_image", ImageWithWords30),
    ("marengo3.0", "multi_input"): _request(Request30, "multi_input", Multi30),
    ("marengo3.5", "multi_input"): _request(Request35, "multi_input", Multi35, auto_truncate=(Flag, False)),
}
"""Requests to embed something at once, by model and input type."""


class CreateUpload(Closed):
    """Open an upload session."""

    filename: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
    type: Literal["video", "audio", "image"]
    total_size: Annotated[Whole, Field(ge=1)]
    enable_hls: Flag = False
    enable_thumbnail: Flag = False
    user_metadata: dict[str, Any] = {}


class MoreUrls(Closed):
    """Ask for URLs of further chunks."""

    start: Annotated[Whole, Field(ge=1)]
    count: Annotated[Whole, Field(ge=1, le=MOST_AT_ONCE)]


class ReportedChunk(Closed):
    """A chunk that was put, with its ETag as proof."""

    chunk_index: Annotated[Whole, Field(ge=1)]
    proof: str
    proof_type: Literal["etag"]
    chunk_size: Annotated[Whole, Field(ge=1)]


class ReportChunks(Closed):
    """Report chunks that were put."""

    completed_chunks: Annotated[list[ReportedChunk], Field(min_length=1, max_length=MOST_AT_ONCE)]


class ChangeMetadata(Closed):
    """Replace the user metadata of an asset, or merge into it."""

    user_metadata: dict[str, Any]
