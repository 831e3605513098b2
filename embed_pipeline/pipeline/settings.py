"""Embedding settings and policy of a pipeline: described values."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from embed_pipeline.ledger import TaskRow
    from embed_pipeline.media import PlatformLimits

MediaType = Literal["audio", "video"]

# What the platform uses where nothing is said; always sent, because the defaults differ between models.
_OPTIONS: dict[str, dict[MediaType, tuple[str, ...]]] = {
    "marengo3.0": {"video": ("visual", "audio", "transcription"), "audio": ("audio", "transcription")},
    "marengo3.5": {"video": ("visual", "audio"), "audio": ("audio",)},
}

# The platform takes each of these lists as a set; the order and the repeats in which people write one mean nothing.
_CANONICAL_ORDER = (
    *("visual", "audio", "transcription"),
    *("clip", "asset"),
    *("separate_embedding", "fused_embedding"),
)


class Segmentation(BaseModel):
    """Segmentation of a media file: fixed lengths, or dynamic where the content changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["fixed", "dynamic"] = Field(
        description="fixed: equal lengths; dynamic: where the content changes."
    )
    seconds: int = Field(description="The length of a fixed segment, or the least length of a dynamic one, in seconds.")

    @model_validator(mode="after")
    def _within_the_platforms_bounds(self) -> Segmentation:
        highest = 10 if self.strategy == "fixed" else 5
        if not 2 <= self.seconds <= highest:
            msg = f"{self.strategy} segmentation takes 2 to {highest} seconds, not {self.seconds}"
            raise ValueError(msg)
        return self

    def wire(self) -> dict[str, Any]:
        """Return the object that the platform takes."""
        length = {"fixed": "duration_sec", "dynamic": "min_duration_sec"}[self.strategy]
        return {"strategy": self.strategy, self.strategy: {length: self.seconds}}


class EmbeddingSettings(BaseModel):
    """Embedding settings: model, options, scopes, segmentation. Files embedded with the same ones may be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_name: Literal["marengo3.0", "marengo3.5"] = Field("marengo3.0", description="The platform's model.")
    embedding_dimension: Literal[128, 256, 512] = Field(
        512, description="Numbers in a vector; below 512 only with marengo3.5."
    )
    video_options: tuple[str, ...] = Field(
        (), description="What to embed of a video: visual, audio, transcription. Empty for all the model has."
    )
    audio_options: tuple[str, ...] = Field(
        (), description="What to embed of an audio file: audio, transcription. Empty for all the model has."
    )
    scopes: tuple[str, ...] = Field(
        ("clip", "asset"), description="clip: a vector for each segment; asset: one for the whole media file."
    )
    types: tuple[str, ...] = Field(
        ("separate_embedding",),
        description="separate_embedding: a vector for each option; fused_embedding: one of all.",
    )
    video_segmentation: Segmentation = Field(
        Segmentation(strategy="dynamic", seconds=4), description="How a video is cut into segments."
    )
    audio_segmentation: Segmentation = Field(
        Segmentation(strategy="fixed", seconds=6),
        description="How an audio file is cut into segments; marengo3.0 takes fixed only.",
    )
    start_sec: float | None = Field(None, ge=0, description="Embed from here, in seconds. Empty for the beginning.")
    end_sec: float | None = Field(None, gt=0, description="Embed up to here, in seconds. Empty for the end.")
    embedding_uncertainty: bool = Field(False, description="Ask for each vector's uncertainty; marengo3.5 only.")

    @field_validator("video_options", "audio_options", "scopes", "types")
    @classmethod
    def _in_one_order(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Another order must not be other settings: every file would be paid for again."""
        known = [name for name in _CANONICAL_ORDER if name in given]
        return (*known, *sorted(set(given) - set(known)))

    @model_validator(mode="after")
    def _one_the_platform_takes(self) -> EmbeddingSettings:
        if self.model_name == "marengo3.0":
            if self.embedding_dimension != 512:
                msg = f"marengo3.0 has 512 dimensions; {self.embedding_dimension} needs marengo3.5"
                raise ValueError(msg)
            if self.embedding_uncertainty:
                msg = "embedding_uncertainty needs marengo3.5"
                raise ValueError(msg)
            if self.audio_segmentation.strategy == "dynamic":
                msg = "marengo3.0 cuts audio files at fixed lengths only; dynamic needs marengo3.5"
                raise ValueError(msg)
        for media_type, asked in (("video", self.video_options), ("audio", self.audio_options)):
            known = _OPTIONS[self.model_name][media_type]  # type: ignore[index]
            if unknown := sorted(set(asked) - set(known)):
                msg = (
                    f"{self.model_name} has no option {', '.join(unknown)} for {media_type}: it has {', '.join(known)}"
                )
                raise ValueError(msg)
        if self.end_sec is not None and self.end_sec <= (self.start_sec or 0):
            msg = f"end_sec ({self.end_sec}) must lie after start_sec ({self.start_sec or 0})"
            raise ValueError(msg)
        if self.embedding_uncertainty and "asset" in self.scopes:
            msg = "embedding_uncertainty cannot be had for the scope asset: leave it out of scopes"
            raise ValueError(msg)
        return self

    def options(self, media_type: MediaType) -> tuple[str, ...]:
        """Return what is embedded of a media file of this type."""
        asked = self.video_options if media_type == "video" else self.audio_options
        return asked or _OPTIONS[self.model_name][media_type]

    def request(self, media_type: MediaType) -> dict[str, Any]:
        """Return the keywords of `tasks.create`, but for the media source."""
        options = self.options(media_type)
        segmentation = (self.video_segmentation if media_type == "video" else self.audio_segmentation).wire()
        media: dict[str, Any] = {
            "start_sec": self.start_sec,
            "end_sec": self.end_sec,
            "segmentation": {"temporal": segmentation} if self.model_name == "marengo3.5" else segmentation,
            "embedding_option": list(options),
            "embedding_scope": list(self.scopes),
            # The platform takes the type only where there is more than one option to keep apart or to fuse.
            "embedding_type": list(self.types) if len(options) > 1 else None,
        }
        request: dict[str, Any] = {
            "input_type": media_type,
            "model_name": self.model_name,
            media_type: {key: value for key, value in media.items() if value is not None},
        }
        if self.model_name == "marengo3.5":
            request["embedding_dimension"] = self.embedding_dimension
            if self.embedding_uncertainty:
                request["embedding_uncertainty"] = True
        return request

    def embedded_minutes(self, duration_sec: float) -> float:
        """Return the minutes between `start_sec` and `end_sec` of a media file of this length.

        Args:
            duration_sec: Its length, in seconds.
        """
        end = duration_sec if self.end_sec is None else min(self.end_sec, duration_sec)
        return max(end - (self.start_sec or 0.0), 0.0) / 60

    def spelled_out(self) -> EmbeddingSettings:
        """Return the same settings with the options named that are left to the model, which may have others one day."""
        return self.model_copy(
            update={"video_options": self.options("video"), "audio_options": self.options("audio")},
        )

    def digest(self, media_type: MediaType) -> str:
        """Return twelve hex characters that stand for all that a media file of this type is embedded with."""
        return _digest(self.request(media_type))

    @property
    def code_version(self) -> str:
        """Digest of these settings as a whole."""
        return _digest([self.request("video"), self.request("audio")])


class PipelinePolicy(BaseModel):
    """Choices of a team about submitting, collecting, retrying, spending and forgetting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submit_automatically: bool = Field(
        False, description="Whether discovery requests submission of new and changed media files by itself."
    )
    partitions_per_run: int = Field(100, ge=1, le=1000, description="Media files in one run, at the most.")
    runs_per_tick: int = Field(10, ge=1, description="Runs that one sensor tick requests, at the most.")
    new_files_per_tick: int = Field(500, ge=1, description="Media files that one discovery tick adds, at the most.")
    tick_budget_sec: float = Field(
        30.0, gt=0, description="Seconds after which a tick leaves the rest to the next one."
    )
    sensor_interval_sec: int = Field(30, ge=5, description="Seconds between two ticks of a sensor.")
    collect_wait_sec: float = Field(
        300.0, ge=0, description="How long a run waits, in all, for tasks that are still processing when it was asked."
    )
    max_attempts: int = Field(3, ge=1, description="Tasks created for one content before its failures count as final.")
    retry_backoff_sec: float = Field(
        60.0, ge=0, description="Wait before the second attempt, in seconds; doubles with each further one."
    )
    result_lifetime_sec: float = Field(
        7 * 86400.0, gt=0, description="How long the platform keeps a result, in seconds."
    )
    lease_sec: float = Field(
        45.0, ge=5, description="Seconds after which the claims of a run whose process died are free for another run."
    )
    create_timeout_sec: float = Field(
        30.0, gt=0, description="How long one request that creates a task may take in all, in seconds."
    )
    doubt_margin_sec: float = Field(
        120.0,
        ge=0,
        description=(
            "Seconds after the deadline of a request with an unknown outcome for which the platform may still carry it "
            "out. Only then the content is submitted again."
        ),
    )
    interruptions_tolerated: int = Field(
        6, ge=2, description="Runs that may die while they collect one result alone before it counts as failed."
    )
    stuck_after_sec: float = Field(
        6 * 3600.0, gt=0, description="A task that is processing for longer than this is reported as stuck, in seconds."
    )
    expiry_alarm_sec: float = Field(
        2 * 86400.0, gt=0, description="A result that expires within so many seconds, uncollected, is reported."
    )
    table_interval_sec: float = Field(
        900.0,
        ge=0,
        description="Seconds between two runs of embeddings_table while results still come in, at the least.",
    )
    table_longest_sec: float = Field(
        6 * 3600.0,
        gt=0,
        description="Seconds between two runs of embeddings_table, at the most: its checks run with it.",
    )
    snapshots_kept: int = Field(3, ge=1, description="Snapshots of embeddings_table that are kept to roll back to.")
    pictures: bool = Field(
        True, description="Whether a partition's page shows how alike its segments are (needs the extra pictures)."
    )
    when_a_file_vanishes: Literal["keep", "retire"] = Field(
        "keep",
        description="keep: its segments and its partition stay, marked as gone; retire: both are removed.",
    )
    min_duration_sec: float = Field(4.0, ge=0, description="Shorter media files are not submitted, in seconds.")
    max_duration_sec: float = Field(4 * 3600.0, gt=0, description="Longer media files are not submitted, in seconds.")
    max_video_bytes: int = Field(4 * 1024**3, gt=0, description="Larger video files are not submitted, in bytes.")
    max_audio_bytes: int = Field(2 * 1024**3, gt=0, description="Larger audio files are not submitted, in bytes.")
    min_short_side: int = Field(
        360, ge=1, description="Pictures with a shorter side of fewer pixels are not submitted."
    )
    max_short_side: int = Field(
        2160, ge=1, description="Pictures with a shorter side of more pixels are not submitted."
    )
    max_long_side: int = Field(5184, ge=1, description="Pictures with a longer side of more pixels are not submitted.")
    max_aspect_ratio: float = Field(2.4, ge=1, description="Pictures of a larger aspect ratio are not submitted.")
    max_minutes_per_run: float | None = Field(
        None, gt=0, description="Media minutes that one run submits, at the most."
    )
    max_minutes_per_day: float | None = Field(
        None, gt=0, description="Media minutes submitted within 24 hours, at the most, over all runs."
    )
    price_per_minute: float = Field(0.0, ge=0, description="What a media minute costs, for estimates; any currency.")
    schedule_cron: str = Field("0 2 * * *", description="When daily_embedding_schedule submits.")
    schedule_timezone: str = Field("UTC", description="The time zone of schedule_cron.")

    def bounds(self) -> PlatformLimits:
        """Return the bounds on media files, as the check of a file takes them."""
        from embed_pipeline.media import PlatformLimits

        names = [one.name for one in fields(PlatformLimits) if one.name in type(self).model_fields]
        return PlatformLimits(**{name: getattr(self, name) for name in names})

    @model_validator(mode="after")
    def _lease_outlasts_a_request(self) -> PipelinePolicy:
        if self.lease_sec <= self.create_timeout_sec:
            msg = f"lease_sec ({self.lease_sec:g}) must be longer than create_timeout_sec ({self.create_timeout_sec:g})"
            raise ValueError(msg)
        return self


def backoff_sec(failures: int, first_sec: float, *, longest_sec: float = 6 * 3600.0) -> float:
    """Return the wait after the n-th failure in a row, in seconds: doubled each time.

    Args:
        failures: How many there were, from 1.
        first_sec: The wait after the first.
        longest_sec: The longest wait.
    """
    return min(first_sec * 2.0 ** min(failures - 1, 20), longest_sec)


def settings_of(row: TaskRow) -> EmbeddingSettings:
    """Return the settings that a task was asked for with."""
    return EmbeddingSettings.model_validate(row.settings)


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
