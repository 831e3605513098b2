"""Everything a pipeline lives between, small enough for a test: a media folder, the emulator, a Dagster instance."""

from __future__ import annotations

import os
import random
import time
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest
import sqlalchemy as sa

from embed_pipeline.client.exchange import CreateRegistry
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.ledger import tables
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.daemon import InProcessDaemon, Tick
from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource
from embed_pipeline.orchestration.runs import RANGE_END_TAG, RANGE_START_TAG
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.publish import MediaStatus, read_statuses
from embed_pipeline.pipeline.settings import PipelinePolicy

_SAMPLES_PER_SEC = 1000

AT_ONCE = PipelinePolicy(
    submit_automatically=True, collect_wait_sec=0.0, retry_backoff_sec=0.0, sensor_interval_sec=5, partitions_per_run=50
)
"""A policy that waits for nothing."""


def write_sound(path: Path, seed: int, seconds: float = 5.0) -> Path:
    """Write a real, small WAV file; another seed is another content. Replaces what is there at once, as a copy does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(_SAMPLES_PER_SEC)
        file.writeframes(random.Random(seed).randbytes(int(seconds * _SAMPLES_PER_SEC)))
    partial.replace(path)
    return path


class World:
    """A media library, the platform, a Dagster instance and one pipeline between them."""

    def __init__(
        self,
        root: Path,
        instance: dg.DagsterInstance,
        emulator: Emulator,
        *,
        policy: PipelinePolicy = AT_ONCE,
        client: dict[str, Any] | None = None,
        **blueprint: Any,
    ) -> None:
        self.root, self.media, self.instance, self.emulator = root, root / "media", instance, emulator
        self.blueprint = Blueprint(
            client=EmbedClientResource(base_url=emulator.base_url, **(client or {})),
            library=MediaLibraryResource(
                location=str(self.media), settle_sec=0.0, cache=str(root / "fingerprints.sqlite")
            ),
            store=EmbeddingStoreResource(root=str(root / "embeddings")),
            policy=policy,
            **blueprint,
        )
        self._driver: InProcessDaemon | None = None

    def forget_requests(self) -> None:
        """Let what was requested or deferred be free at once, as it is after a while."""
        with self.pipeline() as pipeline, pipeline.ledger.database.write() as (connection, _):
            connection.execute(sa.update(tables.media).values(deferred_until=None))

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the ledger: what it has noted lies so much further back.

        The times at which tasks were created stay, because the platform's list is asked by them. The client forgets
        the requests of this process, as it does in time.
        """
        CreateRegistry._shared.clear()
        with self.pipeline() as pipeline, pipeline.ledger.database.write() as (connection, _):
            for table in (tables.media, tables.task, tables.outbox, tables.pipeline, tables.run):
                times = [column for column in table.c if column.name.endswith(("_at", "_until", "_since"))]
                times = [column for column in times if column is not tables.task.c.created_at]
                connection.execute(sa.update(table).values({column.name: column - seconds for column in times}))

    def varied(self, **changes: Any) -> World:
        """The same world under another policy, or with other values in its blueprint."""
        policy = {name: value for name, value in changes.items() if name in PipelinePolicy.model_fields}
        rest = {name: value for name, value in changes.items() if name not in policy}
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.blueprint = replace(self.blueprint, policy=self.blueprint.policy.model_copy(update=policy), **rest)
        other._driver = None
        return other

    @property
    def driver(self) -> InProcessDaemon:
        if self._driver is None:
            self._driver = InProcessDaemon(build_definitions(self.blueprint), self.instance, self.blueprint.names)
        return self._driver

    @contextmanager
    def pipeline(self) -> Iterator[PipelineContext]:
        """The pipeline's context, as commands open it."""
        with self.blueprint.pipeline() as pipeline:
            yield pipeline

    def add(self, *names: str, first_seed: int | None = None, seconds: float = 5.0) -> None:
        """Write media files; each has a content of its own unless ``first_seed`` says which."""
        for number, name in enumerate(names):
            seed = hash(name) if first_seed is None else first_seed + number
            write_sound(self.media / name, seed, seconds)

    def touch(self, name: str, seconds_ago: float) -> None:
        at = time.time() - seconds_ago
        os.utime(self.media / name, (at, at))

    def discover(self) -> Tick:
        return self.driver.discover()

    def collect(self) -> Tick:
        self.finish_computing()
        return self.driver.collect_ready()

    def step(self) -> tuple[Tick, Tick]:
        """One tick of each sensor, with all that they ask for."""
        return self.discover(), self.collect()

    def settle(self, most: int = 12) -> dict[str, str]:
        """Tick until nothing more is asked for; the state of each media file."""
        for _ in range(most):
            discovered, collected = self.step()
            if not discovered.runs and not collected.runs:
                return self.states()
        raise AssertionError(f"still at work after {most} rounds: {self.states()}")

    def finish_computing(self) -> None:
        """Wait until the platform is done with what it has."""
        store, deadline = self.emulator.platform.store, time.monotonic() + 20
        while store.reader.execute("SELECT count(*) FROM tasks WHERE work != 'done'").fetchone()[0]:
            assert time.monotonic() < deadline, "the emulator does not come to an end"
            time.sleep(0.005)

    def states(self) -> dict[str, str]:
        with self.pipeline() as pipeline:
            return {key: state.value for key, state in pipeline.ledger.states(pipeline.target).items()}

    def statuses(self) -> dict[str, MediaStatus]:
        with self.pipeline() as pipeline:
            return {row.media: row for row in read_statuses(pipeline)}

    def run(self, job: str, *keys: str, **config: bool) -> dg.ExecuteInProcessResult:
        """Run a job for one partition, or for a range from the first to the last of these keys."""
        ops = {self.blueprint.names.embedding_tasks.to_python_identifier(): {"config": config}} if config else {}
        return self.driver.run(job, range_tags(*keys), ops)

    def materialize(self, *keys: str) -> dg.ExecuteInProcessResult:
        """Materialize both assets in one run, as the UI does for a range of partitions."""
        names = self.blueprint.names
        repository = build_definitions(self.blueprint).get_repository_def()
        job = repository.get_implicit_job_def_for_assets([names.embedding_tasks, names.segment_embeddings])
        assert job is not None
        return job.execute_in_process(
            instance=self.instance,
            tags=range_tags(*keys),
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )

    def submit(self, *keys: str, **config: bool) -> dg.ExecuteInProcessResult:
        return self.run(self.blueprint.names.submit_job, *keys, **config)

    def created(self) -> Counter[str]:
        """How many tasks the platform created from each source, by file name."""
        entries = self.emulator.platform.journal.entries(endpoint="create", limit=100_000)
        by_task = {entry["task_id"]: entry["source"] for entry in entries if entry["task_id"]}
        return Counter(unquote(source.rpartition("/")[2]) for source in by_task.values())

    def requests(self) -> int:
        """How many requests the platform has seen."""
        summary = self.emulator.platform.journal.summary()["requests"]
        return sum(count for by_status in summary.values() for count in by_status.values())

    def words(self, result: dg.ExecuteInProcessResult) -> str:
        """Why a run failed, in the words that a person reads."""
        failures = [event.step_failure_data for event in result.all_node_events if event.is_step_failure]
        return "\n".join(
            str(data.user_failure_data.description if data.user_failure_data else data.error) for data in failures
        )

    def faults(self, *rules: dict[str, Any], seed: int = 0) -> None:
        self.emulator.platform.faults.replace(rules, seed)

    def segments(self, key: str) -> Any:
        """What the dataset holds of a media file under the pipeline's settings; None for nothing."""
        digest = self.blueprint.settings.digest("audio" if key.endswith(".wav") else "video")
        return self.blueprint.store.dataset().read_media(key, digest)

    def latest(self, asset: str, key: str) -> dg.AssetMaterialization:
        """The latest materialization of an asset's partition."""
        name = self.blueprint.names.asset_key(asset)
        (record,) = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(name, asset_partitions=[key]), limit=1
        ).records
        assert record.asset_materialization is not None
        return record.asset_materialization

    def observations(self, asset: str, key: str) -> list[dg.AssetObservation]:
        """What was observed of an asset's partition, oldest first."""
        name = self.blueprint.names.asset_key(asset)
        records = self.instance.fetch_observations(dg.AssetRecordsFilter(name, asset_partitions=[key]), limit=100)
        return [record.asset_observation for record in reversed(records.records) if record.asset_observation]

    def partitions(self) -> list[str]:
        """Dagster's partitions, in its order."""
        return list(self.instance.get_dynamic_partitions(self.blueprint.names.partitions))

    def partition_statuses(self, asset: str) -> dict[str, str]:
        """What the UI shows of an asset's partitions; those that are missing are left out."""
        found = self.instance.get_status_by_partition(
            self.blueprint.names.asset_key(asset), self.partitions(), self.blueprint.partitions_def
        )
        return {key: status.value for key, status in (found or {}).items() if status is not None}

    def unreported(self) -> int:
        """Changes that Dagster has not been told of."""
        with self.pipeline() as pipeline:
            return pipeline.ledger.outbox.count(pipeline.name)


def range_tags(*keys: str) -> dict[str, str]:
    return {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]}


def problems_of(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What a failed run tells of each media file, in its table of problems."""
    failures = [event.step_failure_data for event in result.all_node_events if event.is_step_failure]
    assert failures[-1].user_failure_data is not None
    records = failures[-1].user_failure_data.metadata["embed_pipeline/problems"].records
    return {str(record.data["media"]): str(record.data["problem"]) for record in records}


def outputs_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the steps of a run sum up, by the name of the number."""
    found: dict[str, Any] = {}
    for event in result.all_node_events:
        if event.is_successful_output:
            values = event.step_output_data.metadata.items()
            found |= {name.removeprefix("embed_pipeline/"): value.value for name, value in values}
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def stored_instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with storage on disk, as a default installation has it and as processes share it."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """An empty media folder."""
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def emulator(media: Path) -> Iterator[Emulator]:
    """The local platform: it reads the media folder in place, and its vectors cost nothing."""
    with Emulator(EmulatorSettings(engine="instant", media_root=media, workers=1)) as emulator:
        yield emulator


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance, emulator: Emulator) -> World:
    """A media library, the platform, a Dagster instance and one pipeline between them."""
    return World(tmp_path, instance, emulator)
