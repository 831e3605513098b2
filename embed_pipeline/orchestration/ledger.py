"""The ledger: a read-only view over Dagster's event log of which task serves which media file, and what became of it.

The event log is the only state. What is needed of every partition at each tick comes from Dagster's index in one query
an asset; single events are read only for the partitions at hand. The index queries are not part of Dagster's public
interface; they are used here and nowhere else, and a test pins what they do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.event_api import EventLogRecord
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.states import MediaState, state_of
from embed_pipeline.orchestration.versions import DATA_VERSION_TAG, RETIRED, Outcome

_KEYS_PER_QUERY = 500
_EVENTS_PER_PAGE = 1000


@dataclass(frozen=True, slots=True)
class LoggedOutcome:
    """An outcome with the event that told it: its words and its time."""

    outcome: Outcome
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LoggedResult:
    """The event that told of a media file's segments: its metadata and its time."""

    metadata: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was told of a media file at one time.

    Args:
        version: Its fingerprint, or its version as gone.
        uri: Where it was, without credentials; None for one that vanished.
        at: When it was told.
    """

    version: str
    uri: str | None
    at: datetime


class Ledger:
    """Reads the events of one pipeline from a Dagster instance; writes nothing.

    Args:
        instance: The Dagster instance.
        names: The pipeline's names.
    """

    def __init__(self, instance: dg.DagsterInstance, names: PipelineNames) -> None:
        self._instance = instance
        self._names = names

    def partitions(self) -> Sequence[str]:
        """Every partition key, in key order: that in which they were added."""
        return self._instance.get_dynamic_partitions(self._names.partitions)

    def media_versions(self, keys: Collection[str] | None = None) -> Mapping[str, str]:
        """The latest known fingerprint of each media file, or of these; ``gone`` for one that vanished."""
        return self._versions(self._names.media_files, dg.DagsterEventType.ASSET_OBSERVATION, keys)

    def media_event_ids(self, keys: Collection[str] | None = None) -> Mapping[str, int]:
        """The storage id of the event that told each media file's latest fingerprint."""
        return self._storage_ids(self._names.media_files, dg.DagsterEventType.ASSET_OBSERVATION, keys)

    def task_versions(self) -> Mapping[str, str]:
        """The latest task of each media file that has one, as a version."""
        return self._versions(self._names.embedding_tasks, dg.DagsterEventType.ASSET_MATERIALIZATION)

    def task_event_ids(self, keys: Collection[str] | None = None) -> Mapping[str, int]:
        """The storage id of the event that told each media file's latest task."""
        return self._storage_ids(self._names.embedding_tasks, dg.DagsterEventType.ASSET_MATERIALIZATION, keys)

    def embedded_versions(self, keys: Collection[str] | None = None) -> Mapping[str, str]:
        """The task whose segments are in the dataset, for each media file, or of these, that has any."""
        return self._versions(self._names.segment_embeddings, dg.DagsterEventType.ASSET_MATERIALIZATION, keys)

    def outcomes(self) -> Mapping[str, Outcome]:
        """The latest outcome of each media file that has one. It counts only while its subject is the latest."""
        versions = self._versions(self._names.embedding_tasks, dg.DagsterEventType.ASSET_OBSERVATION)
        parsed = ((key, Outcome.parse(version)) for key, version in versions.items())
        return {key: outcome for key, outcome in parsed if outcome is not None}

    def states(self) -> dict[str, MediaState]:
        """The one state of every media file that has a partition."""
        media, tasks = self.media_versions(), self.task_versions()
        embedded, outcomes = self.embedded_versions(), self.outcomes()
        media_ids, task_ids = self.media_event_ids(), self.task_event_ids()
        return {
            key: state_of(
                media=media.get(key),
                task=tasks.get(key),
                embedded=embedded.get(key),
                outcome=outcomes.get(key),
                changed_since_task=media_ids.get(key, 0) > task_ids.get(key, 0),
            )
            for key in self.partitions()
        }

    def task_records(self, keys: Collection[str]) -> dict[str, list[TaskRecord]]:
        """The tasks that served each of these media files, latest first."""
        records: dict[str, list[TaskRecord]] = {}
        for event in self._events(self._names.embedding_tasks, keys):
            materialization = event.asset_materialization
            record = (
                TaskRecord.from_event(materialization, event.storage_id, event.timestamp) if materialization else None
            )
            if record is not None:
                records.setdefault(record.media, []).append(record)
        return records

    def latest_tasks(self, keys: Collection[str]) -> dict[str, TaskRecord]:
        """The latest task of each of these media files that has one."""
        return {key: records[0] for key, records in self.task_records(keys).items()}

    def latest_results(self, keys: Collection[str]) -> dict[str, LoggedResult]:
        """The latest ``segment_embeddings`` event of each of these media files that has one, without its pictures."""
        found: dict[str, LoggedResult] = {}
        for event in self._events(self._names.segment_embeddings, keys):
            materialization = event.asset_materialization
            if materialization is not None and materialization.partition is not None:
                values = {
                    name: value.value
                    for name, value in materialization.metadata.items()
                    # Pictures: some kilobytes each, and there may be a hundred thousand.
                    if not isinstance(value, dg.MarkdownMetadataValue)
                }
                at = datetime.fromtimestamp(event.timestamp, tz=UTC)
                found.setdefault(materialization.partition, LoggedResult(values, at))
        return found

    def latest_media(self, keys: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """What discovery told of each of these media files when it last saw it."""
        found: dict[str, Mapping[str, Any]] = {}
        for event in self._events(self._names.media_files, keys, observations=True):
            observation = event.asset_observation
            # A file that vanished was told of without its address.
            if observation is not None and observation.partition is not None and "dagster/uri" in observation.metadata:
                values = {name: value.value for name, value in observation.metadata.items()}
                found.setdefault(observation.partition, values)
        return found

    def sightings(self, keys: Collection[str]) -> dict[str, list[Sighting]]:
        """Everything that was ever told of these media files, oldest first."""
        found: dict[str, list[Sighting]] = {}
        for event in self._events(self._names.media_files, keys, observations=True):
            observation = event.asset_observation
            if observation is None or observation.partition is None:
                continue
            version, uri = observation.tags.get(DATA_VERSION_TAG), observation.metadata.get("dagster/uri")
            if version is not None:
                sighting = Sighting(
                    version,
                    None if uri is None else str(uri.value),
                    datetime.fromtimestamp(event.timestamp, tz=UTC),
                )
                found.setdefault(observation.partition, []).insert(0, sighting)
        return found

    def holders(self, contents: Collection[str]) -> dict[str, set[str]]:
        """The media files that were ever told to hold each of these contents, whatever they hold now.

        Args:
            contents: Fingerprints.
        """
        found = self._ever(self._names.media_files, dg.DagsterEventType.ASSET_OBSERVATION, contents)
        if found is None:
            # A hosted event log has no tables to ask, so every event is read: slow, but nothing is paid twice.
            found = {}
            for key, seen in self.sightings(self.partitions()).items():
                for content in {sighting.version for sighting in seen}.intersection(contents):
                    found.setdefault(content, set()).add(key)
        return found

    def ever_embedded(self, tasks: Collection[str]) -> dict[str, set[str]]:
        """The media files whose segments were ever made by each of these tasks, and may be in the dataset still.

        Args:
            tasks: Versions of tasks.
        """
        found = self._ever(self._names.segment_embeddings, dg.DagsterEventType.ASSET_MATERIALIZATION, tasks)
        if found is None:
            found = {}
            latest = self.embedded_versions()
            for key, version in latest.items():
                if version in tasks:
                    found.setdefault(version, set()).add(key)
        else:
            latest = self.embedded_versions(set().union(*found.values()))
        kept = {task: {key for key in keys if latest.get(key, RETIRED) != RETIRED} for task, keys in found.items()}
        return {task: keys for task, keys in kept.items() if keys}

    def _ever(
        self, asset_key: dg.AssetKey, event_type: dg.DagsterEventType, versions: Collection[str]
    ) -> dict[str, set[str]] | None:
        """The partitions that ever had each of these versions; None where the event log cannot be asked."""
        from dagster._core.storage.event_log import SqlEventLogStorage
        from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
        from sqlalchemy import select

        storage = self._instance.event_log_storage
        if not isinstance(storage, SqlEventLogStorage):
            return None
        found: dict[str, set[str]] = {}
        tags, events = AssetEventTagsTable.c, SqlEventLogStorageTable.c
        for some in _chunks(versions):
            query = (
                select(tags.value, events.partition)
                .join_from(AssetEventTagsTable, SqlEventLogStorageTable, events.id == tags.event_id)
                .where(
                    tags.asset_key == asset_key.to_string(),
                    tags.key == DATA_VERSION_TAG,
                    tags.value.in_(some),
                    events.dagster_event_type == event_type.value,
                )
                .distinct()
            )
            with storage.index_connection() as connection:
                for version, key in connection.execute(query):
                    found.setdefault(version, set()).add(key)
        return found

    def told_tasks(self, tasks: Collection[str]) -> set[str]:
        """Which of these tasks some event tells of: of this pipeline, or of another one in the instance.

        Args:
            tasks: Versions of tasks.
        """
        own, materialized = self._names.embedding_tasks, dg.DagsterEventType.ASSET_MATERIALIZATION
        told: set[str] = set()
        for asset_key in self._instance.get_asset_keys():
            if asset_key.path[-1] != own.path[-1]:
                continue
            found = self._ever(asset_key, materialized, tasks)
            if found is not None:
                told.update(found)
            elif asset_key == own:
                told.update(record.version for some in self.task_records(self.partitions()).values() for record in some)
            else:
                told.update(self._versions(asset_key, materialized).values())
        return told.intersection(tasks)

    def latest_evaluation(self, check: dg.AssetCheckKey) -> dg.AssetCheckEvaluation | None:
        """The latest result of a check; one that is only planned, as by the run that asks, does not count."""
        decided = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
        storage = self._instance.event_log_storage
        latest = storage.get_asset_check_execution_history(check, limit=1, status=decided)
        return latest[0].evaluation if latest else None

    def position(self) -> int:
        """The storage id of the latest event of any kind that a state is read from; 0 before the first."""
        return max((self._latest_id(asset_key, event_type) for asset_key, event_type in self._told_in), default=0)

    def changed_since(self, position: int) -> set[str]:
        """The media files of which something was told after this position."""
        return {
            key
            for asset_key, event_type in self._told_in
            if self._latest_id(asset_key, event_type) > position
            for key, storage_id in self._storage_ids(asset_key, event_type, None).items()
            if storage_id > position
        }

    @property
    def _told_in(self) -> list[tuple[dg.AssetKey, dg.DagsterEventType]]:
        """The kinds of events that states are read from."""
        return [
            (self._names.media_files, dg.DagsterEventType.ASSET_OBSERVATION),
            (self._names.embedding_tasks, dg.DagsterEventType.ASSET_MATERIALIZATION),
            (self._names.embedding_tasks, dg.DagsterEventType.ASSET_OBSERVATION),
            (self._names.segment_embeddings, dg.DagsterEventType.ASSET_MATERIALIZATION),
        ]

    def _latest_id(self, asset_key: dg.AssetKey, event_type: dg.DagsterEventType) -> int:
        observed = event_type is dg.DagsterEventType.ASSET_OBSERVATION
        fetch = self._instance.fetch_observations if observed else self._instance.fetch_materializations
        return next((record.storage_id for record in fetch(asset_key, limit=1).records), 0)

    def logged_outcomes(self, keys: Collection[str]) -> dict[str, LoggedOutcome]:
        """The latest outcome of each of these media files, with its words."""
        found: dict[str, LoggedOutcome] = {}
        for key, logged in self._outcome_events(keys):
            found.setdefault(key, logged)
        return found

    def outcome_history(self, keys: Collection[str]) -> dict[str, LoggedOutcome]:
        """The latest outcome of every task, and every refused content, that these media files ever had, by subject."""
        found: dict[str, LoggedOutcome] = {}
        for _, logged in self._outcome_events(keys):
            found.setdefault(logged.outcome.subject, logged)
        return found

    def _outcome_events(self, keys: Collection[str]) -> Iterator[tuple[str, LoggedOutcome]]:
        for event in self._events(self._names.embedding_tasks, keys, observations=True):
            observation = event.asset_observation
            if observation is None or observation.partition is None:
                continue
            outcome = Outcome.parse(observation.tags.get(DATA_VERSION_TAG, ""))
            if outcome is not None:
                message = observation.metadata.get("embed_pipeline/error")
                words = str(message.value) if message is not None else ""
                at = datetime.fromtimestamp(event.timestamp, tz=UTC)
                yield observation.partition, LoggedOutcome(outcome, words, at)

    def records_created_since(self, since: datetime) -> Iterator[TaskRecord]:
        """The tasks that were created (not re-attached) since then, latest first: what was spent."""
        records_filter = dg.AssetRecordsFilter(asset_key=self._names.embedding_tasks, after_timestamp=since.timestamp())
        for event in self._pages(records_filter, observations=False):
            materialization = event.asset_materialization
            if materialization is None:
                continue
            record = TaskRecord.from_event(materialization, event.storage_id, event.timestamp)
            if record is not None and record.how != "re-attached":
                yield record

    def _versions(
        self, asset_key: dg.AssetKey, event_type: dg.DagsterEventType, keys: Collection[str] | None = None
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in [None] if keys is None else _chunks(keys):
            tags = self._instance.event_log_storage.get_latest_tags_by_partition(
                asset_key, event_type, [DATA_VERSION_TAG], asset_partitions=some
            )
            found.update((key, values[DATA_VERSION_TAG]) for key, values in tags.items() if key is not None)
        return found

    def _storage_ids(
        self, asset_key: dg.AssetKey, event_type: dg.DagsterEventType, keys: Collection[str] | None
    ) -> dict[str, int]:
        if keys is None:
            return dict(self._instance.event_log_storage.get_latest_storage_id_by_partition(asset_key, event_type))
        found: dict[str, int] = {}
        for some in _chunks(keys):
            found.update(
                self._instance.event_log_storage.get_latest_storage_id_by_partition(
                    asset_key, event_type, partitions=set(some)
                )
            )
        return found

    def _events(
        self, asset_key: dg.AssetKey, keys: Collection[str], *, observations: bool = False
    ) -> Iterator[EventLogRecord]:
        for some in _chunks(keys):
            yield from self._pages(
                dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=list(some)), observations=observations
            )

    def _pages(self, records_filter: dg.AssetRecordsFilter, *, observations: bool) -> Iterator[EventLogRecord]:
        fetch = self._instance.fetch_observations if observations else self._instance.fetch_materializations
        cursor = None
        while True:
            page = fetch(records_filter, limit=_EVENTS_PER_PAGE, cursor=cursor)
            yield from page.records
            if not page.has_more:
                return
            cursor = page.cursor


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    ordered = list(keys)
    for start in range(0, len(ordered), _KEYS_PER_QUERY):
        yield ordered[start : start + _KEYS_PER_QUERY]
