"""The materialization of one embedding task, as metadata of an event and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import dagster as dg
from pydantic import ValidationError

from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.versions import task_version

How = Literal["created", "re-attached", "adopted"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that serves a media file, as the event log has it.

    Args:
        media: The partition key of the media file.
        task_id: The platform's id.
        fingerprint: The content that was submitted.
        settings_digest: The settings it was submitted with.
        platform: Where: the platform's host name, or ``emulator``.
        submitted_at: When the task was created.
        attempt: Which attempt on this content with these settings it is, from 1.
        minutes: Media minutes that it embeds; None where the duration is not known.
        how: Whether this event's run created the task, found it in the ledger, or found it in the platform's list.
        root_run_id: The run that asked for it, or the first of its re-executions.
        media_uri: Where the content was, without credentials.
        settings: What was asked for; None where the event does not tell.
        storage_id: The event's id, which orders events; None before it is stored.
    """

    media: str
    task_id: str
    fingerprint: str
    settings_digest: str
    platform: str
    submitted_at: datetime
    attempt: int
    minutes: float | None
    how: How
    root_run_id: str
    media_uri: str
    settings: EmbeddingSettings | None = None
    storage_id: int | None = None

    @property
    def version(self) -> str:
        """The task as a data version."""
        return task_version(self.task_id)

    def metadata(self) -> dict[str, Any]:
        """The event's metadata; ``from_event`` reads it back."""
        values: dict[str, Any] = {
            "embed_pipeline/task_id": self.task_id,
            "embed_pipeline/how": self.how,
            "embed_pipeline/attempt": self.attempt,
            "embed_pipeline/submitted_at": dg.MetadataValue.timestamp(self.submitted_at),
            "embed_pipeline/fingerprint": self.fingerprint,
            "embed_pipeline/settings_digest": self.settings_digest,
            "embed_pipeline/platform": self.platform,
            "embed_pipeline/root_run_id": dg.MetadataValue.dagster_run(self.root_run_id),
            "dagster/uri": self.media_uri,
        }
        if self.settings is not None:
            values["embed_pipeline/settings"] = self.settings.spelled_out().model_dump(mode="json")
        if self.minutes is not None:
            values["embed_pipeline/minutes"] = round(self.minutes, 4)
        return values

    @classmethod
    def from_event(cls, event: dg.AssetMaterialization, storage_id: int, timestamp: float) -> TaskRecord | None:
        """The record in an event; None for an event that this plugin did not write."""
        values: Mapping[str, Any] = {key: value.value for key, value in event.metadata.items()}
        task_id = values.get("embed_pipeline/task_id")
        if event.partition is None or not isinstance(task_id, str):
            return None
        submitted = values.get("embed_pipeline/submitted_at")
        minutes = values.get("embed_pipeline/minutes")
        return cls(
            media=event.partition,
            task_id=task_id,
            fingerprint=str(values.get("embed_pipeline/fingerprint", "")),
            settings_digest=str(values.get("embed_pipeline/settings_digest", "")),
            platform=str(values.get("embed_pipeline/platform", "")),
            submitted_at=datetime.fromtimestamp(submitted if isinstance(submitted, float) else timestamp).astimezone(),
            attempt=int(values.get("embed_pipeline/attempt", 1)),
            minutes=float(minutes) if isinstance(minutes, int | float) else None,
            how=values.get("embed_pipeline/how", "created"),
            root_run_id=str(values.get("embed_pipeline/root_run_id", "")),
            media_uri=str(values.get("dagster/uri", "")),
            settings=_settings_in(values.get("embed_pipeline/settings")),
            storage_id=storage_id,
        )


def _settings_in(told: Any) -> EmbeddingSettings | None:
    try:
        return EmbeddingSettings.model_validate(told)
    except ValidationError:
        return None
