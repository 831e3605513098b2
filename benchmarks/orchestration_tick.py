"""What a tick of the sensors costs with many tasks in flight among very many partitions: seconds, requests, memory.

Run it with `python benchmarks/orchestration_tick.py` for 1,000 in flight among 10,000 partitions, under a minute on a
quiet machine; the figures that are quoted come from `--partitions 100000 --in-flight 10000`.

The platform is an emulator in a process of its own that holds as many tasks, so that every page of its list is real.
The event log is written through Dagster's own storage code, but in large transactions: at ten milliseconds an event it
would take an hour.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
from dagster._core.events import DagsterEvent
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from embed_pipeline.orchestration.knowledge import gather_knowledge
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.pipeline import build_definitions
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.sources import typed_request
from embed_pipeline.orchestration.submission_plan import Candidate
from embed_pipeline.orchestration.versions import version_tags

from embed_pipeline.client import EmbedClient, MediaSource
from embed_pipeline.commands.emulator_process import emulator_process
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource

_AT_ONCE = 5_000


def create_tasks(url: str, blueprint: Blueprint, count: int) -> list[str]:
    """Create tasks on the platform, through the client, several at once."""
    request = blueprint.settings.request("video")
    with EmbedClient(api_key="benchmark", base_url=url) as client, ThreadPoolExecutor(8) as pool:

        def create(number: int) -> str:
            source = MediaSource(url=f"http://media.example.com/{number:06}.mp4")
            return client.v_2.tasks.create(**typed_request(request, source)).id

        return list(pool.map(create, range(count)))


def store(instance: dg.DagsterInstance, events: Iterator[dg.AssetMaterialization | dg.AssetObservation]) -> None:
    """Store events as Dagster does, but many in one transaction.

    Its public way stores one at a time, at about 9 ms each; so this reaches into the storage.
    """
    storage: Any = instance.event_log_storage
    first = next(events)
    instance.report_runless_asset_event(first)  # makes the asset known
    while entries := [_entry(event) for event in itertools.islice(events, _AT_ONCE)]:
        with storage.index_connection() as connection:
            last = connection.exec_driver_sql("SELECT max(id) FROM event_logs").scalar() or 0
            connection.execute(
                SqlEventLogStorageTable.insert(),
                [storage.prepare_insert_event(entry).compile().params for entry in entries],
            )
            ids = range(last + 1, last + 1 + len(entries))
            storage._store_asset_event_tags(connection, entries, ids)


def _entry(event: dg.AssetMaterialization | dg.AssetObservation) -> EventLogEntry:
    from dagster._core.events import AssetObservationData, DagsterEventType, StepMaterializationData

    observed = isinstance(event, dg.AssetObservation)
    data = AssetObservationData(event) if observed else StepMaterializationData(event)
    kind = DagsterEventType.ASSET_OBSERVATION if observed else DagsterEventType.ASSET_MATERIALIZATION
    return EventLogEntry(
        user_message="",
        level=logging.INFO,
        job_name="benchmark",
        run_id="",
        error_info=None,
        timestamp=time.time(),
        dagster_event=DagsterEvent(kind.value, "benchmark", event_specific_data=data),
    )


def fill(instance: dg.DagsterInstance, blueprint: Blueprint, keys: Sequence[str], task_ids: Sequence[str]) -> None:
    """Write the events of a library of which the last files are in flight, and all others embedded."""
    names, code_version = blueprint.names, blueprint.task_code_version
    for start in range(0, len(keys), 10_000):
        instance.add_dynamic_partitions(names.partitions, list(keys[start : start + 10_000]))
    embedded = len(keys) - len(task_ids)
    ids = [f"{number:024x}" for number in range(embedded)] + list(task_ids)
    now = datetime.now(UTC)

    def media() -> Iterator[dg.AssetObservation]:
        for number, key in enumerate(keys):
            yield dg.AssetObservation(names.media_files, partition=key, tags=version_tags(f"{number:032x}"))

    def tasks() -> Iterator[dg.AssetMaterialization]:
        for number, (key, task_id) in enumerate(zip(keys, ids, strict=True)):
            record = TaskRecord(
                media=key,
                task_id=task_id,
                fingerprint=f"{number:032x}",
                settings_digest=blueprint.settings.digest("video"),
                platform="emulator",
                submitted_at=now,
                attempt=1,
                minutes=10.0,
                how="created",
                root_run_id="0" * 36,
                media_uri=f"http://media.example.com/{number:06}.mp4",
            )
            tags = version_tags(task_id, code_version, (names.media_files, f"{number:032x}", number + 1))
            yield dg.AssetMaterialization(names.embedding_tasks, partition=key, metadata=record.metadata(), tags=tags)

    def segments() -> Iterator[dg.AssetMaterialization]:
        for key, task_id in zip(keys[:embedded], ids, strict=False):
            tags = version_tags(task_id, code_version, (names.embedding_tasks, task_id, 1))
            yield dg.AssetMaterialization(
                names.segment_embeddings, partition=key, metadata={"embed_pipeline/segments": 150}, tags=tags
            )

    for events in (media(), tasks(), segments()):
        store(instance, events)


def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, sensor: str) -> str:
    """Evaluate one sensor once, without running what it asks for; what it said."""
    one = definitions.get_repository_def().get_sensor_def(sensor)
    resources = dict(definitions.resources or {})
    with dg.build_sensor_context(instance=instance, definitions=definitions, resources=resources) as context:
        answer = one.evaluate_tick(context)
    return answer.skip_message or f"{len(answer.run_requests or [])} runs requested"


def submission_reads(blueprint: Blueprint, instance: dg.DagsterInstance, keys: Sequence[str]) -> str:
    """Read what a turn of a submitting run reads for the files of one run."""
    some, ledger = keys[:100], Ledger(instance, blueprint.names)
    digest = blueprint.settings.digest("video")
    candidates = [Candidate(key, version, digest, None) for key, version in ledger.media_versions(some).items()]
    known = gather_knowledge(ledger, candidates, platform="emulator", root_run_id="")
    return f"{len(known.records)} tasks found, {len(known.embedded)} of them embedded"


def requests_seen(url: str) -> int:
    """How many requests the platform has answered."""
    summary = httpx.get(f"{url.removesuffix('/v1.3')}/_emulator/journal/summary").json()["requests"]
    return sum(count for by_status in summary.values() for count in by_status.values())


def measured(name: str, url: str, work: Callable[[], str]) -> None:
    before, wall, cpu = requests_seen(url), time.perf_counter(), time.process_time()
    said = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:34}{wall:8.2f} s wall{cpu:8.2f} s processor{requests_seen(url) - before:6} requests{peak:7.0f} MB peak"
    )
    print(f"    {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=10_000, help="media files (10,000)")
    parser.add_argument("--in-flight", type=int, default=1_000, help="tasks in flight among them (1,000)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "media").mkdir()
        (folder / "dagster").mkdir()
        (folder / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        os.environ["DAGSTER_HOME"] = str(folder / "dagster")
        with (
            emulator_process(
                state=folder / "emulator",
                media_root=folder / "media",
                engine="instant",
                instant_duration_sec=10,
                hold=True,
            ) as url,
            dg.DagsterInstance.get() as instance,
        ):
            blueprint = Blueprint(
                client=EmbedClientResource(base_url=url),
                library=MediaLibraryResource(location=str(folder / "media"), cache=str(folder / "fingerprints")),
                store=EmbeddingStoreResource(root=str(folder / "embeddings")),
                policy=PipelinePolicy(submit_automatically=True),
            )
            begin = time.perf_counter()
            task_ids = create_tasks(url, blueprint, arguments.in_flight)
            print(f"{len(task_ids)} tasks created in {time.perf_counter() - begin:.0f} s")
            begin = time.perf_counter()
            keys = [f"library/{number // 1000:03}/{number:06}.mp4" for number in range(arguments.partitions)]
            fill(instance, blueprint, keys, task_ids)
            print(f"event log of {len(keys)} partitions written in {time.perf_counter() - begin:.0f} s")
            definitions = build_definitions(blueprint)
            ready = blueprint.names.plain("embedding_ready_sensor")
            measured("ready sensor, nothing has ended", url, lambda: tick(definitions, instance, ready))
            httpx.post(f"{url.removesuffix('/v1.3')}/_emulator/tasks/release", json={})
            measured("ready sensor, everything has ended", url, lambda: tick(definitions, instance, ready))
            discovery = blueprint.names.plain("media_discovery_sensor")
            measured("discovery, the library is empty", url, lambda: tick(definitions, instance, discovery))
            measured("what a submission of 100 files reads", url, lambda: submission_reads(blueprint, instance, keys))


if __name__ == "__main__":
    main()
