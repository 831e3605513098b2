"""Reporting: changes in the ledger's outbox as Dagster's events, and the failure and output of a step.

An asset here logs each partition's event the moment it is true, where Dagster would log one for each targeted partition
when the step yields its output: late, with the same metadata for all, and for partitions that were skipped too. If the
step then yielded nothing, Dagster would skip the downstream asset in the same run; so it yields an output that carries
the one mark for which Dagster logs no events of its own. A test pins that behaviour.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import Ledger, OutboxRow
from embed_pipeline.media import decode_partition_key
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.metadata import SIZE_BYTES, URI, problem_table, settings_in_words
from embed_pipeline.pipeline.settings import EmbeddingSettings

DATA_VERSION_TAG = "dagster/data_version"
# Not the embedding settings: segments are of a task, and other settings that concern a file bring it another one. Were
# the settings here too, the segments of a file that they do not concern, whose task stays, would be stale for good.
SEGMENTS_CODE_VERSION = "1"
# An output without a value: no IO manager stores it. Dagster's annotations take it for the type None.
NOTHING = cast("dg.DagsterType", dg.Nothing)

_TAG_VALUE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PROBLEMS_SHOWN = 20
_ROWS_PER_PAGE = 200
_ROWS_PER_LOT = 10

Event = dg.AssetMaterialization | dg.AssetObservation


def task_version(task_id: str) -> str:
    """Return a task id as a data version: itself where a tag can hold it, else a hash of it."""
    if _TAG_VALUE.fullmatch(task_id):
        return task_id
    return "id-" + hashlib.sha256(task_id.encode()).hexdigest()[:32]


def version_tags(
    data_version: str, code_version: str | None = None, upstream: tuple[dg.AssetKey, str, int | None] | None = None
) -> dict[str, str]:
    """Return the tags that make Dagster's staleness right for an event that an asset logs itself.

    Args:
        data_version: The version of what the event describes.
        code_version: The asset's code version, if it is a materialization.
        upstream: The upstream asset's key, the version of its partition that was used, and the storage id of the
            event that said so.
    """
    tags = {DATA_VERSION_TAG: data_version, "dagster/data_version_is_user_provided": "true"}
    if code_version is not None:
        tags["dagster/code_version"] = code_version
    if upstream is not None:
        key, version, storage_id = upstream
        name = key.to_user_string()
        tags[f"dagster/input_data_version/{name}"] = version
        tags[f"dagster/input_event_pointer/{name}"] = "NULL" if storage_id is None else str(storage_id)
    return tags


class Reporter:
    """Turns changes into events and deletes them from the outbox; used from one thread.

    Args:
        blueprint: The pipeline.
        instance: The Dagster instance; asked only for the ids of upstream events, which staleness compares.
        ledger: Where the changes are.
        log_event: Stores an event at once.
        keys: The partition keys that most changes will be about, so that those ids are read together.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        instance: dg.DagsterInstance,
        ledger: Ledger,
        log_event: Callable[[Event], None],
        keys: Collection[str] = (),
    ) -> None:
        self._blueprint, self._names = blueprint, blueprint.names
        self._instance, self._ledger, self._log_event = instance, ledger, log_event
        self._keys = set(keys)
        self._ids: dict[dg.AssetKey, dict[str, int]] = {}

    def __call__(self, rows: Sequence[OutboxRow]) -> None:
        """Report changes, and delete them."""
        for row in rows:
            for event in self.events(row):
                self._log_event(event)
            # What is downstream of it refers to the event that was just stored.
            self._ids.get(self._names.asset_key(row.asset), {}).pop(row.key, None)
        self._ledger.outbox.delete([row.id for row in rows])

    def events(self, row: OutboxRow) -> list[Event]:
        """Return the events of one change."""
        match row.kind:
            case "content":
                return self._content(row)
            case "gone":
                version = f"gone.{row.payload['fingerprint']}"
                metadata = {"embed_pipeline/state": "gone"}
                return [
                    dg.AssetObservation(
                        self._names.media_files, partition=row.key, metadata=metadata, tags=version_tags(version)
                    )
                ]
            case "task":
                return [self._task(row)]
            case "failure":
                return [self._failure(row)]
            case "segments":
                return [self._segments(row)]
            case "retired":
                return [
                    dg.AssetMaterialization(
                        self._names.segment_embeddings,
                        partition=row.key,
                        description="The media file is gone, and its segments were removed with it.",
                        metadata={"embed_pipeline/state": "retired", "dagster/partition_row_count": 0},
                        tags=version_tags("retired"),
                    )
                ]

    def _content(self, row: OutboxRow) -> list[Event]:
        payload = row.payload
        metadata: dict[str, Any] = {
            URI: payload["uri"],
            "embed_pipeline/path": decode_partition_key(row.key),
            "embed_pipeline/media_type": payload["media_type"],
            **({} if payload["size"] is None else {SIZE_BYTES: payload["size"]}),
        }
        tags = version_tags(payload["fingerprint"])
        # Dagster's UI calls a partition that was only ever observed missing, and judges staleness downstream of an
        # external asset by observations alone: so both are logged.
        return [
            dg.AssetMaterialization(self._names.media_files, partition=row.key, metadata=metadata, tags=tags),
            dg.AssetObservation(self._names.media_files, partition=row.key, metadata=metadata, tags=tags),
        ]

    def _task(self, row: OutboxRow) -> Event:
        payload = row.payload
        metadata: dict[str, Any] = {
            "embed_pipeline/task_id": payload["task_id"],
            "embed_pipeline/origin": payload["origin"],
            "embed_pipeline/attempt": payload["attempt"],
            "embed_pipeline/submitted_at": _timestamp(payload["submitted_at"]),
            "embed_pipeline/fingerprint": payload["fingerprint"],
            "embed_pipeline/settings_digest": payload["settings_digest"],
            "embed_pipeline/platform": payload["platform"],
            "embed_pipeline/run": payload["run_id"],
            URI: payload["uri"],
            "embed_pipeline/settings": payload["settings"],
        }
        if payload["minutes"] is not None:
            metadata["embed_pipeline/minutes"] = round(payload["minutes"], 4)
        upstream = (self._names.media_files, payload["fingerprint"], self._event_id(self._names.media_files, row.key))
        return dg.AssetMaterialization(
            self._names.embedding_tasks,
            partition=row.key,
            metadata=metadata,
            tags=version_tags(task_version(payload["task_id"]), self._code_version(payload), upstream),
        )

    def _code_version(self, payload: Mapping[str, Any]) -> str:
        """Return a task's code version; settings that differ in what does not concern its file count as the same."""
        settings, platform = self._blueprint.settings, payload["platform"]
        if payload["settings_digest"] not in {settings.digest("audio"), settings.digest("video")}:
            settings = EmbeddingSettings.model_validate(payload["settings"])
        return f"{settings.code_version}.{platform}"

    def _failure(self, row: OutboxRow) -> Event:
        payload = row.payload
        return dg.AssetObservation(
            self._names.embedding_tasks,
            partition=row.key,
            metadata={
                "embed_pipeline/error": payload["error"],
                "embed_pipeline/state": payload["state"],
                "embed_pipeline/attempt": payload["attempt"],
            },
        )

    def _segments(self, row: OutboxRow) -> Event:
        payload = row.payload
        version = task_version(payload["task_id"])
        upstream = (self._names.embedding_tasks, version, self._event_id(self._names.embedding_tasks, row.key))
        return dg.AssetMaterialization(
            self._names.segment_embeddings,
            partition=row.key,
            metadata=segment_metadata(row.key, payload),
            tags=version_tags(version, SEGMENTS_CODE_VERSION, upstream),
        )

    def _event_id(self, asset: dg.AssetKey, key: str) -> int | None:
        """Return the storage id of the event that told the latest version of a partition; None for none."""
        known = self._ids.get(asset)
        if known is None or key not in known:
            kind = (
                dg.DagsterEventType.ASSET_OBSERVATION
                if asset == self._names.media_files
                else dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            wanted = {key} if known is not None else {key, *self._keys}
            found = self._instance.event_log_storage.get_latest_storage_id_by_partition(asset, kind, wanted)
            known = {**(known or {}), **found}
            self._ids[asset] = known
        return known.get(key)


def report_left_behind(blueprint: Blueprint, instance: dg.DagsterInstance, ledger: Ledger, *, budget_sec: float) -> int:
    """Report what no live run reports: what discovery found, and what dead runs left; return how much.

    Args:
        blueprint: The pipeline.
        instance: The Dagster instance.
        ledger: Where the changes are.
        budget_sec: Seconds after which the rest is left to the next tick.
    """
    deadline = time.monotonic() + budget_sec
    count = 0
    while rows := ledger.outbox.unreported(blueprint.name or "", limit=_ROWS_PER_PAGE):
        reporter = Reporter(blueprint, instance, ledger, instance.report_runless_asset_event, {row.key for row in rows})
        for start in range(0, len(rows), _ROWS_PER_LOT):
            reporter(lot := rows[start : start + _ROWS_PER_LOT])
            count += len(lot)
            if time.monotonic() > deadline:
                return count
    return count


def segment_metadata(key: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page of a partition of `segment_embeddings` shows, in that order."""
    values: dict[str, Any] = {
        "embed_pipeline/path": decode_partition_key(key),
        **{f"embed_pipeline/{name}": dg.MetadataValue.md(text) for name, text in payload.get("pictures", {}).items()},
        "embed_pipeline/segments": payload["segments"],
        "embed_pipeline/space": payload["space"],
        "embed_pipeline/task_id": payload["task_id"],
        "embed_pipeline/settings_digest": payload["settings_digest"],
        "dagster/partition_row_count": payload["segments"],
        SIZE_BYTES: payload["size_bytes"],
    }
    for name in ("dimension", "attempt", "media_type"):
        if payload.get(name) is not None:
            values[f"embed_pipeline/{name}"] = payload[name]
    if payload.get("uri") is not None:
        values[URI] = payload["uri"]
    if payload.get("settings"):
        values["embed_pipeline/settings"] = settings_in_words(payload["settings"])
    if payload.get("duration_sec") is not None:
        values["embed_pipeline/media_sec"] = round(payload["duration_sec"], 3)
        values["embed_pipeline/minutes"] = round(payload["duration_sec"] / 60, 4)
    if payload.get("ready_at") is not None:
        # Two clocks: ours had the answer when the platform's may have been done already.
        submitted_at = payload.get("submitted_at") or payload["ready_at"]
        values["embed_pipeline/wait_sec"] = round(max(payload["ready_at"] - submitted_at, 0.0), 3)
        values["embed_pipeline/ready_at"] = _timestamp(payload["ready_at"])
    if payload.get("absent_options"):
        values["embed_pipeline/absent_options"] = ", ".join(payload["absent_options"])
    for content, tokens in (payload.get("input_tokens") or {}).items():
        values[f"embed_pipeline/input_tokens_{content}"] = tokens
    for kind, problem in (payload.get("problems") or {}).items():
        values[f"embed_pipeline/problem_{kind}"] = problem
    return values


def output_without_events(summary: Mapping[str, Any] | None = None) -> dg.Output[None]:
    """Return the output of a step that has logged its events itself.

    Args:
        summary: What the run did, in numbers; the run's page shows it with the output.
    """
    return dg.Output(None, metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True, **(summary or {})})


def targeted_partitions(context: dg.AssetExecutionContext) -> list[str]:
    """Return the partition keys that a run targets, in key order.

    Raises:
        dg.Failure: The run targets none, as when a range's end lies before its start: it would seem to succeed.
    """
    keys = list(context.partition_keys)
    if not keys:
        raise dg.Failure(
            "The run targets no media file: the range of partitions is empty, perhaps because its end lies before its "
            "start. Choose partitions in the order in which Dagster lists them.",
            allow_retries=False,
        )
    return keys


def failure(headline: str, problems: Mapping[str, str], metadata: Mapping[str, Any]) -> dg.Failure:
    """Return one failure for all that went wrong in a run, after everything that went right was recorded.

    Args:
        headline: What happened, in numbers.
        problems: What is wrong with each partition key; what the headline says already is not repeated in words.
        metadata: What else is worth showing.
    """
    own = {key: problem for key, problem in problems.items() if problem != headline}
    shown = [f"{key}: {problem}" for key, problem in list(own.items())[:_PROBLEMS_SHOWN]]
    more = [f"... and {len(own) - _PROBLEMS_SHOWN} more"] if len(own) > _PROBLEMS_SHOWN else []
    if problems:
        metadata = {"embed_pipeline/problems": problem_table(problems, longest=len(problems)), **metadata}
    return dg.Failure("\n".join([headline, *shown, *more]), metadata=dict(metadata), allow_retries=False)


@contextmanager
def failure_in_one_sentence() -> Iterator[None]:
    """End a step with the words of an error of ours, where Dagster would show a stack trace first.

    Raises:
        dg.Failure: An error of ours was raised.
    """
    try:
        yield
    except EmbedPipelineError as error:
        raise dg.Failure(error.message) from error


def _timestamp(at: float | None) -> Any:
    return None if at is None else dg.MetadataValue.timestamp(datetime.fromtimestamp(at, tz=UTC))
