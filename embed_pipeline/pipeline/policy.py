"""Policy of a pipeline: runs, retries, money and vanished files."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    max_minutes_per_run: float | None = Field(
        None, gt=0, description="Media minutes that one run submits, at the most."
    )
    max_minutes_per_day: float | None = Field(
        None, gt=0, description="Media minutes submitted within 24 hours, at the most, over all runs."
    )
    price_per_minute: float = Field(0.0, ge=0, description="What a media minute costs, for estimates; any currency.")
    schedule_cron: str = Field("0 2 * * *", description="When daily_embedding_schedule submits.")
    schedule_timezone: str = Field("UTC", description="The time zone of schedule_cron.")

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
