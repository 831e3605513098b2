"""The platform's rules for combinations of model, input and settings, so that a refusal costs no request.

Each rule gives the reason in the words of the platform's contract. Rules for a model that is not known here are left
to the platform.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from embed_pipeline.client.errors import InvalidRequestError
from embed_pipeline.client.requests import (
    MARENGO_3_0,
    MARENGO_3_5,
    AsyncTemporalSegmentation,
    AudioInputRequest,
    CreateTaskRequest,
    DocumentInputRequest,
    VideoInputRequest,
)
from embed_pipeline.redaction import redact

_KINDS = ("audio", "video", "document", "image")


def build_create_request(**fields: Any) -> CreateTaskRequest:
    """The request that the keywords of ``tasks.create`` describe.

    Raises:
        InvalidRequestError: The platform would refuse it; every broken rule is named.
    """
    try:
        request = CreateTaskRequest(**fields)
    except ValidationError as error:
        raise InvalidRequestError(describe(error)) from None
    broken = list(broken_rules(request))
    if broken:
        raise InvalidRequestError("The platform would refuse this task, so it was not sent: " + "; ".join(broken) + ".")
    return request


def describe(error: ValidationError) -> str:
    """A pydantic error as one sentence with the field's path, without the values (they may hold a signed URL)."""
    parts = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    return redact("The platform would refuse this request, so it was not sent: " + "; ".join(parts) + ".")


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
