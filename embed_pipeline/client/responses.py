"""What the platform answers, under the official SDK's names. Fields that nobody knows yet stay readable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, overload

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import CoreSchema, core_schema

from embed_pipeline.client.errors import EmptyResultError
from embed_pipeline.redaction import redact_value

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray


class ResponseModel(BaseModel):
    """Common to everything that is read: immutable, and tolerant of fields that are new."""

    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, protected_namespaces=(), hide_input_in_errors=True
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, redact_value(value)

    def __str__(self) -> str:
        return repr(self)


def _identifier() -> Any:
    return Field(alias="_id")


class TasksCreateResponse(ResponseModel):
    """A task that now exists.

    Attributes:
        id: The task's id; opaque.
        status: ``processing``.
        data: Always None at this point.
        metadata: Marengo 3.5: ``embedding_dimension``.
        adopted: True if this task was found in the list after a create whose outcome was unknown. Not on the wire.
    """

    id: str = _identifier()
    status: str = "processing"
    data: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    adopted: bool = Field(default=False, exclude=True)


class EmbeddingTaskResponseError(ResponseModel):
    """Why a task failed, in the platform's words; see ``classify_failure``."""

    message: str = ""


class EmbeddingUsage(ResponseModel):
    """What Marengo 3.5 counted: input tokens per kind of content, and whether something was cut off."""

    input_tokens: dict[str, int] = Field(default_factory=dict)
    truncated: bool = False
    truncation_reason: str | None = None


class EmbeddingTaskMediaMetadata(ResponseModel):
    """What the platform says about the media of a task, as ``retrieve`` gives it; units are seconds.

    Attributes:
        embedding_engine: What computed the vectors, where a server says so (our emulator does, the platform does not).
    """

    input_type: str | None = None
    input_url: str | None = None
    input_filename: str | None = None
    clip_length: float | None = None
    embedding_options: list[str] | None = None
    embedding_scopes: list[str] | None = None
    duration: float | None = None
    start_offset_sec: float | None = None
    end_offset_sec: float | None = None
    embedding_dimension: int | None = None
    embedding_engine: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingData:
    """One item of a result: a vector and what it is the vector of.

    Attributes:
        embedding: The vector, (dimension,) float32: a view of a row of ``Segments.embedding``.
        embedding_option: ``visual``, ``audio``, ``transcription``, ``text``, ``fused``, or None.
        embedding_scope: ``clip``, ``asset``, ``page``, ``chunk``, or None.
        start_sec: Start, seconds, or None.
        end_sec: End, seconds, or None.
        embedding_uncertainty: (dimension,) float32, or None where it was not asked for.
        start_page_number: Of a document.
        end_page_number: Of a document.
        quadrant: Of a page.
        chunk_index: Of a text.
    """

    embedding: NDArray[float32]
    embedding_option: str | None = None
    embedding_scope: str | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    embedding_uncertainty: NDArray[float32] | None = None
    start_page_number: int | None = None
    end_page_number: int | None = None
    quadrant: str | None = None
    chunk_index: int | None = None


@dataclass(frozen=True, eq=False)
class Segments(Sequence[EmbeddingData]):
    """All items of a result as columns; also a sequence of :class:`EmbeddingData` that are made when asked for.

    Attributes:
        embedding: (n, dimension) float32, C-contiguous, all finite.
        embedding_option: n values, None where the platform gave none.
        embedding_scope: n values, None where the platform gave none.
        start_sec: (n,) float64, NaN where the platform gave none.
        end_sec: (n,) float64, NaN where the platform gave none.
        embedding_uncertainty: (n, dimension) float32, or None if no item has one.
        extra: Further columns by name (pages, quadrants, chunks, and what is new), n values each, None where absent.
    """

    embedding: NDArray[float32]
    embedding_option: list[str | None]
    embedding_scope: list[str | None]
    start_sec: NDArray[float64]
    end_sec: NDArray[float64]
    embedding_uncertainty: NDArray[float32] | None = None
    extra: dict[str, list[Any]] | None = None

    def __len__(self) -> int:
        return len(self.embedding_option)

    @property
    def dimension(self) -> int:
        """Length of each vector."""
        return int(self.embedding.shape[1])

    @overload
    def __getitem__(self, index: int) -> EmbeddingData: ...
    @overload
    def __getitem__(self, index: slice) -> list[EmbeddingData]: ...
    def __getitem__(self, index: int | slice) -> EmbeddingData | list[EmbeddingData]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        option = self.embedding_option[index]
        start, end = float(self.start_sec[index]), float(self.end_sec[index])
        extra = self.extra or {}
        return EmbeddingData(
            embedding=self.embedding[index],
            embedding_option=option,
            embedding_scope=self.embedding_scope[index],
            start_sec=None if start != start else start,
            end_sec=None if end != end else end,
            embedding_uncertainty=None if self.embedding_uncertainty is None else self.embedding_uncertainty[index],
            **{name: extra[name][index] for name in _KNOWN_EXTRA if name in extra},
        )

    def __repr__(self) -> str:
        return f"Segments({len(self)} items of {self.dimension} dimensions)"


_KNOWN_EXTRA = ("start_page_number", "end_page_number", "quadrant", "chunk_index")


class EmbeddingTaskResponse(ResponseModel):
    """A task as ``retrieve`` gives it.

    Attributes:
        id: The task's id.
        status: ``processing``, ``ready``, ``failed``; an unknown word means that it is still being processed.
        created_at: By the platform's clock, UTC, or None.
        updated_at: By the platform's clock, UTC, or None.
        metadata: About the media, or None while the platform does not know it.
        usage: Marengo 3.5: tokens.
        error: Why it failed, or None.
    """

    id: str = _identifier()
    status: str
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: EmbeddingTaskMediaMetadata | None = None
    usage: EmbeddingUsage | None = None
    error: EmbeddingTaskResponseError | None = None
    _segments: Segments | None = PrivateAttr(default=None)

    @property
    def data(self) -> Segments | None:
        """The items of the result, made one by one when asked for; None unless the platform sent any."""
        return self._segments

    @property
    def segments(self) -> Segments:
        """The result as columns.

        Raises:
            EmptyResultError: The task holds no vectors: it is not ready yet, failed, or is ready and empty.
        """
        if self._segments is None or len(self._segments) == 0:
            if self.status == "ready":
                raise EmptyResultError(f"Task {self.id} says that it is ready and holds no vector. Create it again.")
            raise EmptyResultError(f"Task {self.id} holds no vectors, because its status is {self.status!r}.")
        return self._segments

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("ready", "failed")


class MediaEmbeddingMetadata(ResponseModel):
    """What the list says about a task's media; its field names differ from those of ``retrieve``. Seconds.

    Audio's options and scopes have singular or plural names, depending on the platform's version; both are read.
    """

    input_url: str | None = None
    input_filename: str | None = None
    duration: float | None = None
    video_clip_length: float | None = None
    video_embedding_scope: list[str] | None = None
    video_embedding_option: list[str] | None = None
    audio_embedding_scope: list[str] | None = None
    audio_embedding_option: list[str] | None = None
    audio_embedding_scopes: list[str] | None = None
    audio_embedding_options: list[str] | None = None
    document_embedding_scope: list[str] | None = None
    document_embedding_option: list[str] | None = None
    image_embedding_scope: list[str] | None = None
    image_embedding_option: list[str] | None = None
    start_offset_sec: float | None = None
    end_offset_sec: float | None = None

    @property
    def embedding_scopes(self) -> list[str] | None:
        """The scopes that were asked for, whatever the field is called."""
        return (
            self.video_embedding_scope
            or self.audio_embedding_scope
            or self.audio_embedding_scopes
            or self.document_embedding_scope
            or self.image_embedding_scope
        )

    @property
    def embedding_options(self) -> list[str] | None:
        """The options that were asked for, whatever the field is called."""
        return (
            self.video_embedding_option
            or self.audio_embedding_option
            or self.audio_embedding_options
            or self.document_embedding_option
            or self.image_embedding_option
        )


class MediaEmbeddingTaskMedia:
    """The wrapper around a listed task's metadata, which is read when it is asked for: most walks need ids only."""

    __slots__ = ("_metadata", "_raw")

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw
        self._metadata: MediaEmbeddingMetadata | None = None

    @property
    def metadata(self) -> MediaEmbeddingMetadata | None:
        """What the list says about the media, or None if it says nothing (that can be read)."""
        if self._metadata is None and isinstance(self._raw.get("metadata"), dict):
            try:
                self._metadata = MediaEmbeddingMetadata.model_validate(self._raw["metadata"])
            except ValidationError:
                return None
        return self._metadata

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MediaEmbeddingTaskMedia) and self._raw == other._raw

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MediaEmbeddingTaskMedia({redact_value(self._raw)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.dict_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda media: media._raw),
        )


class MediaEmbeddingTask(ResponseModel):
    """A task as the list gives it: without vectors and without the reason of a failure."""

    id: str | None = Field(default=None, alias="_id")
    model_name: str | None = None
    status: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    video_embedding: MediaEmbeddingTaskMedia | None = None
    audio_embedding: MediaEmbeddingTaskMedia | None = None
    document_embedding: MediaEmbeddingTaskMedia | None = None
    image_embedding: MediaEmbeddingTaskMedia | None = None

    @property
    def input_type(self) -> str | None:
        """``video``, ``audio``, ``document`` or ``image``, or None if the list does not say."""
        present = (kind for kind in ("video", "audio", "document", "image") if getattr(self, f"{kind}_embedding"))
        return next(present, None)

    @property
    def media(self) -> MediaEmbeddingMetadata | None:
        """The metadata, whichever kind of media it is about; None if the list gives none."""
        wrapper = self.video_embedding or self.audio_embedding or self.document_embedding or self.image_embedding
        return wrapper.metadata if wrapper is not None else None


class PageInfo(ResponseModel):
    """Where in a list a page is."""

    limit_per_page: int | None = None
    page: int | None = None
    total_page: int | None = None
    total_results: int | None = None


class TasksListResponse(ResponseModel):
    """One page of the list of tasks."""

    data: list[MediaEmbeddingTask] | None = None
    page_info: PageInfo | None = None
