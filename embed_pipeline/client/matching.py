"""Is this listed task made from that source? The list is the only evidence: tasks carry no tag of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from embed_pipeline.client.requests import AudioInputRequest, CreateTaskRequest, MediaSource, VideoInputRequest
from embed_pipeline.client.responses import MediaEmbeddingTask

Verdict = Literal["same", "other", "unknown"]

# Query parameters that sign a URL or bound its life: they differ between two URLs of the same object.
_SIGNING = re.compile(
    r"(?i)^(x-amz-.*|x-goog-.*|x-ms-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|token|"
    r"access_token|sig|se|sp|sv|sr|st|spr|skoid|sktid|skt|ske|sks|skv|x-id)$"
)


@dataclass(frozen=True, slots=True)
class Marker:
    """What a source leaves in the list.

    Attributes:
        url: The source's URL, or None. Never shown.
        filename: The name under which the asset was uploaded, or None.
    """

    url: str | None = None
    filename: str | None = None

    @classmethod
    def of(cls, source: MediaSource | str) -> Marker | None:
        """The marker of a source: a URL, or a file name; None for base64 and for an asset whose name is not known."""
        if isinstance(source, MediaSource):
            return cls(url=source.url) if source.url is not None else None
        return cls(url=source) if "://" in source else cls(filename=source)

    def __repr__(self) -> str:
        return f"Marker({self.describe()})"

    def describe(self) -> str:
        """The marker for people, without the URL's query."""
        return self.url.partition("?")[0] if self.url is not None else f"the file name {self.filename!r}"


def same_url(ours: str, listed: str) -> bool:
    """Whether two URLs name the same object.

    Signatures, expiry times and fragments do not count. Other query parameters count if both URLs have any, since the
    platform may echo a URL with or without its query.
    """
    first, second = urlsplit(ours), urlsplit(listed)
    if (first.scheme.lower(), first.hostname, _port(first.scheme, first.port)) != (
        second.scheme.lower(),
        second.hostname,
        _port(second.scheme, second.port),
    ):
        return False
    if unquote(first.path) != unquote(second.path):
        return False
    mine, theirs = _meaningful(first.query), _meaningful(second.query)
    return not mine or not theirs or mine == theirs


def _port(scheme: str, port: int | None) -> int | None:
    return port or {"http": 80, "https": 443}.get(scheme.lower())


def _meaningful(query: str) -> list[tuple[str, str]]:
    return sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if not _SIGNING.match(pair[0]))


def compare_source(task: MediaEmbeddingTask, marker: Marker) -> Verdict:
    """Whether a listed task was made from the source with this marker.

    Returns:
        ``unknown`` if the list does not name the task's source at all.
    """
    media = task.media
    if media is None or (media.input_url is None and media.input_filename is None):
        return "unknown"
    if marker.url is not None:
        if media.input_url is not None:
            return "same" if same_url(marker.url, media.input_url) else "other"
        return "other"
    return "same" if media.input_filename == marker.filename else "other"


def compare_request(task: MediaEmbeddingTask, request: CreateTaskRequest, marker: Marker) -> Verdict:
    """Whether a listed task could have been made by this request: source, model, and settings as far as listed."""
    if task.model_name is not None and task.model_name != request.model_name:
        return "other"
    if task.input_type is not None and task.input_type != request.input_type:
        return "other"
    media, asked = task.media, request.media
    if media is not None and asked is not None:
        if _differ(media.embedding_options, asked.embedding_option):
            return "other"
        if _differ(_as_clip(media.embedding_scopes), _as_clip(asked.embedding_scope)):
            return "other"
        if isinstance(asked, AudioInputRequest | VideoInputRequest) and _windows_differ(task, asked):
            return "other"
    return compare_source(task, marker)


def _differ(listed: Iterable[str] | None, asked: Iterable[str] | None) -> bool:
    return listed is not None and asked is not None and set(listed) != set(asked)


def _as_clip(scopes: Iterable[str] | None) -> list[str] | None:
    return None if scopes is None else ["clip" if scope == "local" else scope for scope in scopes]


def _windows_differ(task: MediaEmbeddingTask, asked: AudioInputRequest | VideoInputRequest) -> bool:
    media = task.media
    if media is None:
        return False
    fixed = getattr(getattr(asked.segmentation, "temporal", asked.segmentation), "fixed", None)
    if media.video_clip_length is not None and fixed is not None and media.video_clip_length != fixed.duration_sec:
        return True
    pairs = ((media.start_offset_sec, asked.start_sec), (media.end_offset_sec, asked.end_sec))
    return any(listed is not None and wanted is not None and abs(listed - wanted) > 0.001 for listed, wanted in pairs)


def created_since(task: MediaEmbeddingTask, moment: datetime) -> bool:
    """Whether the task was created at or after this moment, or does not say when."""
    if task.created_at is None:
        return True
    created = task.created_at if task.created_at.tzinfo is not None else task.created_at.replace(tzinfo=moment.tzinfo)
    return created >= moment
