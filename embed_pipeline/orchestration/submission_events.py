"""What a submission tells of each media file: an event, stored at once, where one is due, and a line in its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError, UnplayableMediaError
from embed_pipeline.orchestration.creation import RunEndedError
from embed_pipeline.orchestration.hindrances import Hindrances
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.observations import media_observation, outcome_observation
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.submission_report import SubmissionReport
from embed_pipeline.orchestration.unexpected import traceback_of, unexpected
from embed_pipeline.orchestration.versions import Outcome, version_tags

if TYPE_CHECKING:
    from embed_pipeline.client import RetryLaterError
    from embed_pipeline.media import MediaFile


@dataclass
class SubmissionEvents:
    """Tells what becomes of the media files of one run.

    Args:
        names: The pipeline's names.
        code_version: The code version of ``embedding_tasks``.
        terms: A digest of what a content is refused under: settings, platform and bounds of duration.
        log_event: Stores an event at once; called from one thread only.
        log: Told in words what is worth reading in the run's log.
        report: What the run did so far.
        hindrances: What the platform answered lately.
        limit_reached: The limit that keeps every further file for later, in words.
        media_event_ids: The events that told of the media files as they are submitted.
        in_doubt: The contents for which a task may have been created that no event tells of.
    """

    names: PipelineNames
    code_version: str
    terms: str
    log_event: Callable[[dg.AssetMaterialization | dg.AssetObservation], None]
    log: Callable[[str], None]
    report: SubmissionReport = field(default_factory=SubmissionReport)
    hindrances: Hindrances = field(default_factory=Hindrances)
    limit_reached: str | None = None
    media_event_ids: dict[str, int] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._refused: set[str] = set()

    @property
    def obstacle(self) -> str | None:
        """What stands in the way of every further request."""
        return self.report.stopped or self.limit_reached

    def content(self, file: MediaFile, fingerprint: str) -> None:
        """Tell what a media file holds."""
        self.log_event(media_observation(self.names, file, fingerprint))

    def task(self, record: TaskRecord, *, media_version: str | None = None) -> None:
        """Tell which task serves a media file.

        Args:
            record: The task.
            media_version: The file's version, where that is not its fingerprint.
        """
        upstream = (self.names.media_files, media_version or record.fingerprint, self.media_event_ids.get(record.media))
        self.log_event(
            dg.AssetMaterialization(
                self.names.embedding_tasks,
                partition=record.media,
                metadata=record.metadata(),
                tags=version_tags(record.version, self.code_version, upstream),
            )
        )
        self.report.tasks[record.media] = record

    def refused(self, key: str, fingerprint: str, message: str) -> None:
        """Tell that nothing was created for this content, and that asking again would not change that."""
        self.report.failed[key] = message
        self._refused.add(key)
        self.log_event(outcome_observation(self.names, key, Outcome.refusal(fingerprint, self.terms), message))

    def same_as(self, leader: str, key: str, fingerprint: str, media_uri: str) -> None:
        """Tell of a file what became of another one with the same content.

        Args:
            leader: The partition key of the one that was dealt with.
            key: The partition key of the other.
            fingerprint: Their content.
            media_uri: Where the other is, without credentials.
        """
        report = self.report
        if leader in report.tasks:
            self.task(replace(report.tasks[leader], media=key, how="re-attached", media_uri=media_uri))
        elif leader in report.held:
            report.held[key] = report.held[leader]
        elif leader in self._refused:
            self.refused(key, fingerprint, report.failed[leader])
        else:
            report.failed[key] = report.failed.get(leader, f"the same content as {leader}")

    def limit(self, limit: RetryLaterError) -> None:
        """Tell that a limit keeps every further file for later."""
        until = f" until {limit.retry_at:%d %b %H:%M} UTC" if limit.retry_at else ""
        self.limit_reached = f"{limit.reason.rstrip('.') or limit.message}{until}"

    def problem(self, key: str, error: Exception, fingerprint: str | None, *, submitting: bool = False) -> None:
        """Tell what kept a file from its task, and judge whether it keeps those after it from theirs.

        Args:
            key: The partition key.
            error: What came up while it was made ready or submitted.
            fingerprint: Its content; None where that could not be read.
            submitting: Whether its task may have been asked for by then.
        """
        from embed_pipeline.client import AmbiguousCreateError, RetryLaterError, culprit_of

        report = self.report
        if (
            submitting
            and fingerprint is not None
            and (isinstance(error, AmbiguousCreateError) or not isinstance(error, EmbedPipelineError))
        ):
            self.in_doubt.add(fingerprint)
        if isinstance(error, AmbiguousCreateError):
            report.settled = False
            report.failed[key] = str(error)
        elif isinstance(error, RunEndedError):
            report.settled = False
            report.stopped = report.held[key] = str(error)
        elif isinstance(error, RetryLaterError):
            self.limit(error)
            report.held[key] = str(self.limit_reached)
        elif not isinstance(error, EmbedPipelineError):
            # Whether a task was created is not known; the next run looks for it before it creates another.
            report.settled = report.settled and not submitting
            report.failed[key] = unexpected(error)
            self.log(f"{key}: {traceback_of(error)}")
        elif self.hindrances.hindered_by(error):
            report.stopped = report.held[key] = str(error)
        elif fingerprint is not None and (isinstance(error, UnplayableMediaError) or culprit_of(error) == "media"):
            self.refused(key, fingerprint, str(error))
        else:
            report.failed[key] = str(error)
