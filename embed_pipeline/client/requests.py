"""What is sent to the platform, under the official SDK's names; what its rules forbid cannot be built.

Rules that one object can break are checked by that object (bounds, exclusive fields, duplicates). Rules that need to
know the model are checked by :mod:`embed_pipeline.client.rules` when a task is created.

A field that is left out is left out on the wire; a field that is set to None is sent as ``null``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from embed_pipeline.client.errors import InvalidRequestError
from embed_pipeline.redaction import redact, without_credentials

InputType = Literal["audio", "video", "document", "image"]
ModelName = str
MARENGO_3_0 = "marengo3.0"
MARENGO_3_5 = "marengo3.5"

_Item = TypeVar("_Item")


def _without_duplicates(values: list[_Item]) -> list[_Item]:
    if len(set(values)) < len(values):
        raise ValueError("the platform refuses lists that name the same value twice")
    return values


UniqueList = Annotated[list[_Item], AfterValidator(_without_duplicates)]


if TYPE_CHECKING:
    _Model = BaseModel
else:

    class _OwnErrors(type(BaseModel)):
        """Turns pydantic's error into the client's own where a caller makes an object; nested ones stay pydantic's."""

        def __call__(cls, *args: Any, **fields: Any) -> Any:
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                raise _invalid(error, cls.__name__) from None

    class _Model(BaseModel, metaclass=_OwnErrors):
        pass


class RequestModel(_Model):
    """Common to everything that is sent: immutable, and strict about names, so that a slip does not cost money.

    Raises:
        InvalidRequestError: A value is out of bounds, or there is no such field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the object that a dict describes.

        Raises:
            InvalidRequestError: A value is out of bounds, or there is no such field.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _invalid(error, cls.__name__) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Return the object that a JSON text describes.

        Raises:
            InvalidRequestError: A value is out of bounds, there is no such field, or it is not JSON.
        """
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            raise _invalid(error, cls.__name__) from None

    def to_wire(self) -> dict[str, Any]:
        """The JSON object that is sent: fields that were never set are absent, fields set to None are null."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def to_body(self) -> bytes:
        """The same as the bytes of a JSON body."""
        return self.model_dump_json(by_alias=True, exclude_unset=True).encode()


class MediaSource(RequestModel):
    """Where the platform takes the media from: exactly one of the three.

    Attributes:
        url: A direct public link to the raw media. Its query is never shown in reprs.
        asset_id: An asset that is ``ready``.
        base_64_string: The media itself in base64 (``base64_string`` on the wire); up to 36 MB decoded for audio and
            video, 32 MB for an image. A create from base64 cannot be settled if its outcome stays unknown.
    """

    base_64_string: str | None = Field(
        default=None,
        validation_alias=AliasChoices("base_64_string", "base64_string"),
        serialization_alias="base64_string",
    )
    url: str | None = None
    asset_id: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> MediaSource:
        given = [name for name in ("url", "base_64_string", "asset_id") if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none of them"
            raise ValueError(f"media_source takes exactly one of url, base_64_string and asset_id; got {named}")
        if not getattr(self, given[0]):
            raise ValueError(f"media_source.{given[0]} is empty")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        if self.url is not None:
            return [("url", without_credentials(self.url))]
        if self.asset_id is not None:
            return [("asset_id", self.asset_id)]
        return [("base_64_string", f"<{len(self.base_64_string or '')} characters>")]

    def __str__(self) -> str:
        return repr(self)


class VideoSegmentationFixedFixed(RequestModel):
    """Segments of equal length.

    Attributes:
        duration_sec: Length of a segment in whole seconds, 2 to 10; the last one may be shorter.
    """

    duration_sec: int = Field(ge=2, le=10)


class VideoSegmentationDynamicDynamic(RequestModel):
    """Segments that follow changes of scene.

    Attributes:
        min_duration_sec: Shortest length of a segment in whole seconds, 2 to 5.
    """

    min_duration_sec: int = Field(ge=2, le=5)


class AudioSegmentationFixed(VideoSegmentationFixedFixed):
    """Segments of equal length, for audio."""


class TemporalSegmentationFixedFixed(VideoSegmentationFixedFixed):
    """Segments of equal length, for Marengo 3.5."""


class TemporalSegmentationDynamicDynamic(VideoSegmentationDynamicDynamic):
    """Segments that follow changes of scene, for Marengo 3.5."""


class _Strategy(RequestModel):
    """A segmentation whose ``strategy`` goes onto the wire although nobody sets it."""

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002 - pydantic's signature
        self.__pydantic_fields_set__.add("strategy")


class VideoSegmentation_Fixed(_Strategy):  # noqa: N801 - the official SDK's name
    """Divides a video into segments of equal length (Marengo 3.0)."""

    strategy: Literal["fixed"] = "fixed"
    fixed: VideoSegmentationFixedFixed


class VideoSegmentation_Dynamic(_Strategy):  # noqa: N801 - the official SDK's name
    """Divides a video at changes of scene (Marengo 3.0)."""

    strategy: Literal["dynamic"] = "dynamic"
    dynamic: VideoSegmentationDynamicDynamic


class AudioSegmentation(_Strategy):
    """Divides audio into segments of equal length (Marengo 3.0)."""

    strategy: Literal["fixed"] = "fixed"
    fixed: AudioSegmentationFixed


class TemporalSegmentation_Fixed(_Strategy):  # noqa: N801 - the official SDK's name
    """Divides audio or video into segments of equal length (Marengo 3.5)."""

    strategy: Literal["fixed"] = "fixed"
    fixed: TemporalSegmentationFixedFixed


class TemporalSegmentation_Dynamic(_Strategy):  # noqa: N801 - the official SDK's name
    """Divides audio or video at changes of scene (Marengo 3.5)."""

    strategy: Literal["dynamic"] = "dynamic"
    dynamic: TemporalSegmentationDynamicDynamic


VideoSegmentation = VideoSegmentation_Dynamic | VideoSegmentation_Fixed
TemporalSegmentation = TemporalSegmentation_Dynamic | TemporalSegmentation_Fixed


class AsyncTemporalSegmentation(RequestModel):
    """The wrapper that Marengo 3.5 wants around a segmentation, and that Marengo 3.0 refuses."""

    temporal: TemporalSegmentation


class DocumentSequentialSegmentation(RequestModel):
    """Divides a text into chunks of whole sentences.

    Attributes:
        strategy: Always ``sentence``.
        max_sentences: Sentences in a chunk, at most.
        overlap_sentences: Sentences that a chunk shares with the one before;
            fewer than ``max_sentences``; 0 if left out.
    """

    strategy: Literal["sentence"]
    max_sentences: int = Field(ge=1)
    overlap_sentences: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> DocumentSequentialSegmentation:
        if self.overlap_sentences is not None and self.overlap_sentences >= self.max_sentences:
            raise ValueError(
                f"overlap_sentences ({self.overlap_sentences}) must be less than max_sentences ({self.max_sentences})"
            )
        return self


class DocumentSpatialSegmentation(RequestModel):
    """Divides the pages of a PDF; ``quadrants`` counts every page five times against the page allowance."""

    strategy: Literal["standard", "quadrants"] | None = None


class DocumentSegmentation(RequestModel):
    """How a document is divided: ``spatial`` for a PDF, ``sequential`` for text and Markdown."""

    spatial: DocumentSpatialSegmentation | None = None
    sequential: DocumentSequentialSegmentation | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> DocumentSegmentation:
        if (self.spatial is None) == (self.sequential is None):
            raise ValueError(
                "document segmentation takes either spatial (for a PDF) or sequential (for text), not both"
            )
        return self


class TimeBasedMetadataEntry(RequestModel):
    """A text of your own about a stretch of the media; goes into the fused embedding of the segments it overlaps.

    Attributes:
        start: Seconds from the start of the file.
        end: Seconds from the start of the file; the same as ``start`` for an instant.
        text: What is to be known about it.
    """

    start: float = Field(ge=0)
    end: float = Field(ge=0)
    text: str

    @model_validator(mode="after")
    def _in_order(self) -> TimeBasedMetadataEntry:
        if self.end < self.start:
            raise ValueError(f"time_based_metadata ends at {self.end} s, before it starts at {self.start} s")
        return self


EmbeddingType = Literal["separate_embedding", "fused_embedding"]


class _TimedInput(RequestModel):
    """What audio and video have in common."""

    media_source: MediaSource
    start_sec: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    end_sec: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _window_in_order(self) -> _TimedInput:
        start = self.start_sec or 0.0
        if self.end_sec is not None and self.end_sec <= start:
            raise ValueError(f"end_sec ({self.end_sec}) must be greater than start_sec ({start})")
        return self


class VideoInputRequest(_TimedInput):
    """A video to embed.

    Attributes:
        media_source: Where it is.
        start_sec: Start of the part to embed, seconds; the beginning if left out.
        end_sec: End of the part to embed, seconds; the end of the file if left out.
        segmentation: For Marengo 3.0 ``VideoSegmentation_Fixed`` or ``VideoSegmentation_Dynamic`` (default: dynamic,
            4 s); for Marengo 3.5 either of its own in ``AsyncTemporalSegmentation`` (default: dynamic, 2 s).
        embedding_option: ``visual``, ``audio`` and, with Marengo 3.0 only, ``transcription``.
        embedding_scope: ``clip`` (one vector per segment), ``asset`` (one for the file); ``local`` is Marengo 3.5's
            other word for ``clip``.
        embedding_type: ``separate_embedding`` (one vector per option), ``fused_embedding`` (one for all of them).
        time_based_metadata: Marengo 3.5 only, together with ``fused_embedding``.
    """

    segmentation: VideoSegmentation_Dynamic | VideoSegmentation_Fixed | AsyncTemporalSegmentation | None = None
    embedding_option: UniqueList[Literal["visual", "audio", "transcription"]] | None = Field(default=None, min_length=1)
    embedding_scope: UniqueList[Literal["clip", "local", "asset"]] | None = Field(default=None, min_length=1)
    embedding_type: UniqueList[EmbeddingType] | None = Field(default=None, min_length=1)
    time_based_metadata: list[TimeBasedMetadataEntry] | None = None


class AudioInputRequest(_TimedInput):
    """Audio to embed; the fields are those of :class:`VideoInputRequest`, without ``visual``.

    With Marengo 3.0 the segmentation is fixed (``AudioSegmentation``, default 6 s).
    """

    segmentation: AudioSegmentation | AsyncTemporalSegmentation | None = None
    embedding_option: UniqueList[Literal["audio", "transcription"]] | None = Field(default=None, min_length=1)
    embedding_scope: UniqueList[Literal["clip", "local", "asset"]] | None = Field(default=None, min_length=1)
    embedding_type: UniqueList[EmbeddingType] | None = Field(default=None, min_length=1)
    time_based_metadata: list[TimeBasedMetadataEntry] | None = None


class DocumentInputRequest(RequestModel):
    """A PDF, plain text or Markdown file to embed (Marengo 3.5), up to 512 MB."""

    media_source: MediaSource
    segmentation: DocumentSegmentation | None = None
    embedding_option: UniqueList[Literal["visual", "text"]] | None = Field(default=None, min_length=1)
    embedding_type: UniqueList[EmbeddingType] | None = Field(default=None, min_length=1)
    embedding_scope: UniqueList[Literal["local", "asset"]] | None = Field(default=None, min_length=1)


class ImageInputRequest(RequestModel):
    """An image to embed (Marengo 3.5), up to 32 MB; every list has the one value that is allowed."""

    media_source: MediaSource
    embedding_option: UniqueList[Literal["visual"]] | None = Field(default=None, min_length=1)
    embedding_type: UniqueList[Literal["separate_embedding"]] | None = Field(default=None, min_length=1)
    embedding_scope: UniqueList[Literal["asset"]] | None = Field(default=None, min_length=1)


# The SDK renamed these in 1.3.4 and kept reading the old ones; both spellings move over unchanged.
AsyncVideoInputRequest = VideoInputRequest
AsyncAudioInputRequest = AudioInputRequest
AsyncDocumentInputRequest = DocumentInputRequest
AsyncImageInputRequest = ImageInputRequest


class CreateTaskRequest(RequestModel):
    """The whole body of ``POST /embed-v2/tasks``; ``tasks.create`` builds it from its keywords.

    Attributes:
        input_type: Which one of the four objects is there.
        model_name: ``marengo3.0`` or ``marengo3.5``; other names are left to the platform.
        embedding_uncertainty: Marengo 3.5: also an uncertainty per dimension. Not together with scope ``asset``.
        embedding_dimension: Marengo 3.5: 128, 256 or 512 (default); a shorter vector is the start of a longer one.
        audio: For ``input_type="audio"``.
        video: For ``input_type="video"``.
        document: For ``input_type="document"``.
        image: For ``input_type="image"``.
    """

    model_config = ConfigDict(protected_namespaces=())

    input_type: InputType
    model_name: ModelName = Field(min_length=1)
    embedding_uncertainty: bool | None = None
    embedding_dimension: Literal[128, 256, 512] | None = None
    audio: AudioInputRequest | None = None
    video: VideoInputRequest | None = None
    document: DocumentInputRequest | None = None
    image: ImageInputRequest | None = None

    @property
    def media(self) -> AudioInputRequest | VideoInputRequest | DocumentInputRequest | ImageInputRequest | None:
        """The object that ``input_type`` names."""
        return {"audio": self.audio, "video": self.video, "document": self.document, "image": self.image}[
            self.input_type
        ]

    @property
    def source(self) -> MediaSource:
        """Where the platform takes the media from."""
        media = self.media
        if media is None:
            raise ValueError(f"input_type is {self.input_type!r}, so the {self.input_type} object is needed")
        return media.media_source


_KINDS = ("audio", "video", "document", "image")


def build_create_request(**fields: Any) -> CreateTaskRequest:
    """Return the request that the keywords of `tasks.create` describe.

    Raises:
        InvalidRequestError: The platform would refuse it; every broken rule is named.
    """
    request = CreateTaskRequest(**fields)
    broken = list(broken_rules(request))
    if broken:
        raise InvalidRequestError("The platform would refuse this task, so it was not sent: " + "; ".join(broken) + ".")
    return request


def _invalid(error: ValidationError, name: str) -> InvalidRequestError:
    """Return pydantic's error as one sentence with the fields' paths, without the values (they may be signed URLs)."""
    parts = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    return InvalidRequestError(redact(f"The platform would refuse this {name}: {'; '.join(parts)}."))


def broken_rules(request: CreateTaskRequest) -> Iterator[str]:
    """Every rule that the request breaks, one reason each; nothing for a request that only the platform can judge."""
    media = request.media
    if media is None:
        yield f"input_type is {request.input_type!r}, so the {request.input_type} object is needed"
    for kind in _KINDS:
        if kind != request.input_type and getattr(request, kind) is not None:
            yield f"the {kind} object does not go with input_type {request.input_type!r}"
    if request.model_name == MARENGO_3_0:
        yield from _marengo_3_0(request)
    elif request.model_name == MARENGO_3_5:
        yield from _marengo_3_5(request)


def _marengo_3_0(request: CreateTaskRequest) -> Iterator[str]:
    if request.input_type in ("document", "image"):
        yield f"{request.input_type} input requires marengo3.5"
    if request.embedding_dimension is not None:
        yield "embedding_dimension requires marengo3.5"
    if request.embedding_uncertainty:
        yield "embedding_uncertainty requires marengo3.5"
    media = request.media
    if not isinstance(media, AudioInputRequest | VideoInputRequest):
        return
    if isinstance(media.segmentation, AsyncTemporalSegmentation):
        yield "the temporal wrapper of segmentation requires marengo3.5; marengo3.0 takes the settings directly"
    if "local" in (media.embedding_scope or ()):
        yield "embedding_scope 'local' requires marengo3.5; with marengo3.0 say 'clip'"
    if media.time_based_metadata:
        yield "time_based_metadata requires marengo3.5"


def _marengo_3_5(request: CreateTaskRequest) -> Iterator[str]:
    media = request.media
    if isinstance(media, AudioInputRequest | VideoInputRequest):
        yield from _timed_3_5(media, uncertain=bool(request.embedding_uncertainty))
    elif isinstance(media, DocumentInputRequest):
        yield from _document(media, uncertain=bool(request.embedding_uncertainty))


def _timed_3_5(media: AudioInputRequest | VideoInputRequest, *, uncertain: bool) -> Iterator[str]:
    if media.segmentation is not None and not isinstance(media.segmentation, AsyncTemporalSegmentation):
        yield "marengo3.5 wants the segmentation inside temporal (AsyncTemporalSegmentation)"
    if "transcription" in (media.embedding_option or ()):
        yield "embedding_option 'transcription' requires marengo3.0; with marengo3.5 'audio' covers speech"
    fused = "fused_embedding" in (media.embedding_type or ())
    if fused and not media.time_based_metadata:
        yield "with marengo3.5 fused_embedding requires time_based_metadata"
    if media.time_based_metadata and not fused:
        yield "time_based_metadata requires embedding_type 'fused_embedding'"
    if uncertain and (media.embedding_scope is None or "asset" in media.embedding_scope):
        yield "embedding_uncertainty does not go with embedding_scope 'asset' (part of the default): set ['clip']"


def _document(document: DocumentInputRequest, *, uncertain: bool) -> Iterator[str]:
    options = document.embedding_option or []
    scopes = document.embedding_scope or []
    sequential = document.segmentation is not None and document.segmentation.sequential is not None
    spatial = document.segmentation is not None and document.segmentation.spatial is not None
    if "fused_embedding" in (document.embedding_type or ()):
        yield "fused_embedding is refused for documents, which have one modality"
    if sequential and "visual" in options:
        yield "sequential segmentation is for text files, and embedding_option 'visual' for PDF files"
    if options == ["text"] and "local" in scopes and not sequential:
        yield "embedding_option 'text' with embedding_scope 'local' requires segmentation.sequential"
    if uncertain and (scopes != ["local"] or "visual" in options or spatial):
        yield "embedding_uncertainty requires a text or Markdown file with embedding_scope ['local']"
