"""What the platform answers, under the official SDK's names. Fields that nobody knows yet stay readable."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, overload

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
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


class TasksCreateResponseMetadata(ResponseModel):
    """Metadata of a new task; only Marengo 3.5 has it.

    Args:
        embedding_dimension: Length of the vectors.
    """

    embedding_dimension: int | None = None


class TasksCreateResponse(ResponseModel):
    """A task that now exists.

    Args:
        id: The task's id; opaque.
        status: `processing`.
        data: Always None at this point.
        metadata: Marengo 3.5: the length of the vectors.
        adopted: True if this task was found in the list after a create with an unknown outcome. Not the platform's.
    """

    id: str = _identifier()
    status: str = "processing"
    data: list[Any] | None = None
    metadata: TasksCreateResponseMetadata | None = None
    adopted: bool = False


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


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingData:
    """One item of a result: a vector and what it is the vector of.

    Args:
        embedding: The vector, (dimension,) float32: a view of a row of `Segments.embedding`.
        embedding_option: `visual`, `audio`, `transcription`, `text`, `fused`, or None.
        embedding_scope: `clip`, `asset`, `page`, `chunk`, or None.
        start_sec: Start, seconds, or None.
        end_sec: End, seconds, or None.
        embedding_uncertainty: (dimension,) float32, or None where it was not asked for.
        start_page_number: Of a document.
        end_page_number: Of a document.
        quadrant: Of a page.
        chunk_index: Of a text.
        model_extra: Further fields that the platform sent, by name.
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
    model_extra: dict[str, Any] = field(default_factory=dict)

    def model_dump(self, **_options: Any) -> dict[str, Any]:
        """Return the item as it is on the wire, with lists of numbers and without fields that are None."""
        dumped = {name: getattr(self, name) for name in self.__slots__ if name != "model_extra"} | self.model_extra
        return {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in dumped.items()
            if value is not None
        }

    def model_dump_json(self, **_options: Any) -> str:
        """Return the item as JSON text."""
        return json.dumps(self.model_dump())


@dataclass(frozen=True, eq=False)
class Segments(Sequence[EmbeddingData]):
    """All items of a result as columns; also a sequence of `EmbeddingData` that are made when asked for.

    Args:
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

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any]]) -> Segments:
        """Return the columns of items as `model_dump` gives them.

        Raises:
            ValueError: An item has no vector, or one of another length than the others.
        """
        import numpy as np

        known = {each.name for each in fields(EmbeddingData)} - set(_FURTHER)
        extra: dict[str, list[Any]] = {}
        for number, item in enumerate(items):
            for name in item.keys() - known:
                extra.setdefault(name, [None] * len(items))[number] = item[name]
        uncertain = [item["embedding_uncertainty"] for item in items if item.get("embedding_uncertainty") is not None]
        if uncertain and len(uncertain) < len(items):
            raise ValueError("some items have an embedding_uncertainty, and others have none")
        try:
            vectors = np.array([item["embedding"] for item in items], np.float32, ndmin=2)
        except (KeyError, ValueError, TypeError):
            raise ValueError("the items have no vectors of one length") from None

        def seconds(name: str) -> NDArray[float64]:
            return np.array([math.nan if item.get(name) is None else item[name] for item in items], np.float64)

        return cls(
            embedding=vectors if items else np.empty((0, 0), np.float32),
            embedding_option=[item.get("embedding_option") for item in items],
            embedding_scope=[item.get("embedding_scope") for item in items],
            start_sec=seconds("start_sec"),
            end_sec=seconds("end_sec"),
            embedding_uncertainty=np.array(uncertain, np.float32) if uncertain else None,
            extra=extra or None,
        )

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
            model_extra={
                name: column[index]
                for name, column in extra.items()
                if name not in _FURTHER and column[index] is not None
            },
            **{name: extra[name][index] for name in _FURTHER if name in extra},
        )

    def __repr__(self) -> str:
        return f"Segments({len(self)} items of {self.dimension} dimensions)"


# Columns of `Segments.extra` that are fields of `EmbeddingData`.
_FURTHER = ("start_page_number", "end_page_number", "quadrant", "chunk_index")


class EmbeddingTaskResponse(ResponseModel):
    """A task as `retrieve` gives it.

    Args:
        id: The task's id.
        status: `processing`, `ready`, `failed`; an unknown word means that it is still being processed.
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

    @model_validator(mode="wrap")
    @classmethod
    def _with_segments(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping) or "data" not in value:
            return handler(value)
        task = handler({name: each for name, each in value.items() if name != "data"})
        if value["data"] is not None:
            task._segments = Segments.of(value["data"])
        return task

    @model_serializer(mode="wrap")
    def _with_data(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        left_out = info.include is not None and "data" not in info.include
        if not left_out and not (info.exclude is not None and "data" in info.exclude):
            dumped["data"] = None if self._segments is None else [item.model_dump() for item in self._segments]
        return dumped

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
            raise EmptyResultError(f"Task {self.id} holds no vectors; its status is {self.status!r}.")
        return self._segments

    @property
    def finished(self) -> bool:
        """True if nothing more will happen to it."""
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
