"""Values that go into the ledger and come out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from embed_pipeline.ledger.states import MediaState, Step, TaskState

Origin = Literal["created", "adopted", "imported"]


@dataclass(frozen=True, slots=True, order=True)
class Content:
    """The identity of what a task embeds.

    Args:
        fingerprint: The content.
        settings_digest: The embedding settings.
        platform: The platform's host name, or `emulator`.
    """

    fingerprint: str
    settings_digest: str
    platform: str


@dataclass(frozen=True, slots=True)
class Target:
    """One pipeline, and what it embeds its media files with.

    Args:
        pipeline: Its name; empty for the one without.
        audio_digest: The settings of audio files.
        video_digest: The settings of video files.
        platform: The platform's host name, or `emulator`.
        config_digest: Settings, platform and bounds together: what a content is refused under.
        max_attempts: Tasks for one content before its failures count as final.
    """

    pipeline: str
    audio_digest: str
    video_digest: str
    platform: str
    config_digest: str
    max_attempts: int = 3

    def digest(self, media_type: str) -> str:
        """Return the digest of the settings for media files of a type."""
        return self.audio_digest if media_type == "audio" else self.video_digest


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """A media file as the library has it.

    Args:
        key: The partition key.
        uri: Where it is, without credentials.
        media_type: `audio` or `video`.
        fingerprint: Its content.
        size: Bytes, where known.
        token: Changes whenever the content may have changed; None where nothing cheap tells.
    """

    key: str
    uri: str
    media_type: str
    fingerprint: str
    size: int | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One attempt on one content.

    Args:
        id: The row.
        content: What it embeds.
        attempt: Its number for this content, from 1.
        tries: Its number since a person last asked for one, from 1.
        state: Its state.
        pipeline: The pipeline that claimed it.
        key: The media file that it was claimed for.
        run_id: The run that claimed it.
        owner: The process that has the claim.
        claimed_at: When, in seconds since 1970 by the database's clock.
        sent_at: When the request was about to be sent; None before that.
        in_doubt_until: Until when the platform may still carry out a request whose outcome is unknown.
        source_url: The URL that was sent, without its query.
        source_filename: The file name of the upload.
        asset_id: The upload.
        media_type: `audio` or `video`.
        settings: What was asked for.
        config_digest: What it was asked for under.
        minutes: Media minutes; None where the length is not known.
        task_id: The platform's id; None before the answer.
        origin: Whether its run created it, adopted it from the platform's list, or imported it from the dataset.
        created_at: When the platform created it.
        ready_at: When the platform had finished it, or was seen to have.
        ended_at: When its segments were written, or it was recorded that it gives none.
        expires_at: When the platform drops its result.
        retry_at: From when on another attempt may follow.
        error: Why it gives no result, in the platform's words.
        fence: The holder of the claim, counted from 1; only the present one may send.
    """

    id: int
    content: Content
    attempt: int
    tries: int
    state: TaskState
    pipeline: str
    key: str
    run_id: str
    owner: str
    claimed_at: float
    sent_at: float | None
    in_doubt_until: float | None
    source_url: str | None
    source_filename: str | None
    asset_id: str | None
    media_type: str
    settings: Mapping[str, Any]
    config_digest: str
    minutes: float | None
    task_id: str | None
    origin: Origin | None
    created_at: float | None
    ready_at: float | None
    ended_at: float | None
    expires_at: float | None
    retry_at: float | None
    error: str | None
    fence: int = 1


@dataclass(frozen=True, slots=True)
class MediaRow:
    """A media file with its state, its next step and its latest task.

    Args:
        key: The partition key.
        uri: Where it is, without credentials.
        media_type: `audio` or `video`.
        fingerprint: Its content.
        state: Its state.
        step: Its next step.
        size: Bytes, where known.
        duration_sec: Its length in seconds, where known.
        is_gone: Whether it vanished from the library.
        task: The latest task of its content; None before the first.
        task_id: The task that it was reported to be served by.
        embedded_task_id: The task of the segments that the dataset has.
        embedded_digest: The settings of those.
        embedded_fingerprint: The content of those.
        embedded_platform: The platform of those.
        segments: How many.
        space: Their vector space.
        size_bytes: The size of their file.
        written_at: When they were written.
        problems: What validation found wrong with them, by kind.
        deferred_reason: Why nothing is done for it at present.
        deferred_since: Since when.
        deferred_until: Until when; None for an unknown time.
        requests: Runs requested for it since one last began to work on it.
        interruptions: Runs that died while they read it or fetched its result, since anything last came of one.
        failures: Runs that failed to do anything for it, since anything last came of one.
        run_id: The run that works on it.
        lease_until: Until when that run counts as alive.
    """

    key: str
    uri: str
    media_type: str
    fingerprint: str
    state: MediaState
    step: Step
    size: int | None
    duration_sec: float | None
    is_gone: bool
    task: TaskRow | None
    task_id: str | None
    embedded_task_id: str | None
    embedded_digest: str | None
    embedded_fingerprint: str | None
    embedded_platform: str | None
    segments: int | None
    space: str | None
    size_bytes: int | None
    written_at: float | None
    problems: Mapping[str, str]
    deferred_reason: str | None
    deferred_since: float | None
    deferred_until: float | None
    requests: int
    interruptions: int
    failures: int
    run_id: str | None
    lease_until: float | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish to create the task of one content.

    Args:
        content: What it embeds.
        key: The media file that it is for.
        media_type: `audio` or `video`.
        settings: What is asked for.
        minutes: Media minutes; None where the length is not known.
        source_url: The URL that will be sent, without its query.
        source_filename: The file name of the upload.
    """

    content: Content
    key: str
    media_type: str
    settings: Mapping[str, Any] = field(hash=False)
    minutes: float | None = None
    source_url: str | None = None
    source_filename: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Media minutes that may be spent.

    Args:
        per_run: By one run; None for no limit.
        per_day: By one pipeline within 24 hours; None for no limit.
    """

    per_run: float | None = None
    per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to create a task.

    Args:
        task: The row, in the state `claimed`.
    """

    task: TaskRow


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """The reason why a claim was not given.

    Args:
        step: The next step for the content; `SUBMIT` where a limit stands in the way.
        task: Its latest task.
        limit: The limit that is reached, in words.
    """

    step: Step
    task: TaskRow | None = None
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A task that was created although another one serves its content: its run had lost the claim.

    Args:
        task_id: The platform's id.
        serving: The task that serves the content.
    """

    task_id: str
    serving: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """Segments that were written to the dataset for one media file.

    Args:
        key: The partition key.
        segments: How many.
        space: Their vector space.
        size_bytes: The size of their file.
        duration_sec: The length of the media file that they cover, where known.
        ready_at: When the platform had finished it, in seconds since 1970, where it says so.
        problems: What validation found wrong with them, by kind.
        details: What a report shows besides: JSON values.
    """

    key: str
    segments: int
    space: str
    size_bytes: int
    duration_sec: float | None = None
    ready_at: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict, hash=False)
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)


def to_json(value: Mapping[str, Any]) -> str:
    """Return the canonical JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
