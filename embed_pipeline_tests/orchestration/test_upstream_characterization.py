"""What Dagster does where its interface is not public or not described; each test names what rests on it."""

# No deferred annotations here: Dagster reads the class of the context from the signature.

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from embed_pipeline.orchestration.reporting import DATA_VERSION_TAG, NOTHING, output_without_events, version_tags
from embed_pipeline.orchestration.runs import RANGE_END_TAG, RANGE_START_TAG

_MEDIA, _TASKS = dg.AssetKey("media"), dg.AssetKey("tasks")
_OBSERVED = dg.DagsterEventType.ASSET_OBSERVATION
_PARTITIONS = dg.DynamicPartitionsDefinition(name="files")


@pytest.fixture
def instance(stored_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """What is pinned is what users' storage does."""
    return stored_instance


def observe(instance: dg.DagsterInstance, key: str, version: str) -> None:
    instance.report_runless_asset_event(dg.AssetObservation(_MEDIA, partition=key, tags=version_tags(version)))


def test_the_index_gives_the_storage_id_of_the_latest_event_of_some_partitions(instance: dg.DagsterInstance) -> None:
    # reporting.Reporter: Dagster's staleness compares the id of the upstream event that was used.
    for key, version in (("a", "1"), ("b", "1"), ("a", "2")):
        observe(instance, key, version)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(_MEDIA, partition="a", tags={DATA_VERSION_TAG: "other"})
    )
    storage = instance.event_log_storage

    ids = storage.get_latest_storage_id_by_partition(_MEDIA, _OBSERVED)

    assert ids["a"] > ids["b"], "storage ids show the order of events, observations and materializations apart"
    assert storage.get_latest_storage_id_by_partition(_MEDIA, _OBSERVED, partitions={"b"}) == {"b": ids["b"]}


def test_key_order_is_the_order_of_adding(instance: dg.DagsterInstance) -> None:
    # runs.contiguous_ranges rests on it: a range run targets what lies between two keys in this order.
    instance.add_dynamic_partitions("files", ["b", "a"])
    instance.add_dynamic_partitions("files", ["0"])
    instance.delete_dynamic_partition("files", "b")
    instance.add_dynamic_partitions("files", ["b"])

    assert list(instance.get_dynamic_partitions("files")) == ["a", "0", "b"]


@dg.asset(key=_TASKS, partitions_def=_PARTITIONS, dagster_type=NOTHING, deps=[_MEDIA])
def tasks(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
    for key in context.partition_keys:
        if key != "skipped":
            context.log_event(dg.AssetMaterialization(_TASKS, partition=key, tags={DATA_VERSION_TAG: f"task-{key}"}))
    yield output_without_events()


@dg.asset(partitions_def=_PARTITIONS, dagster_type=NOTHING, deps=[_TASKS])
def segments(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None]]:
    context.log_event(dg.AssetMaterialization(context.asset_key, partition="ran"))
    yield output_without_events()


def run(instance: dg.DagsterInstance, start: str, end: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [tasks, segments],
        instance=instance,
        tags={RANGE_START_TAG: start, RANGE_END_TAG: end},
        raise_on_error=False,
    )


def test_an_output_with_the_observation_mark_logs_nothing_and_skips_nothing(instance: dg.DagsterInstance) -> None:
    # reporting.output_without_events: an asset logs each partition's event itself, and the next asset still runs.
    instance.add_dynamic_partitions("files", ["a", "skipped", "b"])

    assert run(instance, "a", "b").success

    found = instance.fetch_materializations(_TASKS, limit=10).records
    assert {record.partition_key for record in found} == {"a", "b"}, "no second event, and none for what was skipped"
    assert not instance.fetch_observations(_TASKS, limit=10).records
    assert instance.fetch_materializations(segments.key, limit=10).records, "the downstream step was not skipped"


def test_a_range_whose_end_lies_before_its_start_targets_nothing_without_a_word(instance: dg.DagsterInstance) -> None:
    # reporting.targeted_partitions fails such a run; Dagster alone would let it succeed.
    instance.add_dynamic_partitions("files", ["a", "b"])

    assert run(instance, "b", "a").success
    assert not instance.fetch_materializations(_TASKS, limit=10).records


def test_a_partition_whose_upstream_was_observed_anew_is_stale(instance: dg.DagsterInstance) -> None:
    # reporting.version_tags: with these tags on events that an asset logs itself, Dagster's own staleness is right.
    instance.add_dynamic_partitions("files", ["a", "b"])
    for key in ("a", "b"):
        observe(instance, key, "1")
    ids = instance.event_log_storage.get_latest_storage_id_by_partition(_MEDIA, _OBSERVED)
    for key in ("a", "b"):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                _TASKS, partition=key, tags=version_tags(f"task-{key}", "code", (_MEDIA, "1", ids[key]))
            )
        )
    observe(instance, "b", "2")

    versioned = dg.AssetSpec(_TASKS, partitions_def=_PARTITIONS, deps=[_MEDIA], code_version="code")

    @dg.multi_asset(specs=[versioned])
    def made() -> None: ...

    graph = dg.Definitions([dg.AssetSpec(_MEDIA, partitions_def=_PARTITIONS), made]).get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    assert resolver.get_status(_TASKS, "a") is StaleStatus.FRESH
    assert resolver.get_status(_TASKS, "b") is StaleStatus.STALE


def test_a_step_that_waits_for_its_pool_is_known_by_its_run(instance: dg.DagsterInstance) -> None:
    # runs.queued_keys: a run that waits for a place in the pool has no lease yet, and is not dead.
    storage = instance.event_log_storage
    storage.set_concurrency_slots("pool", 1)

    assert storage.claim_concurrency_slot("pool", "run-1", "step").is_claimed
    assert not storage.claim_concurrency_slot("pool", "run-2", "step").is_claimed

    waiting = storage.get_concurrency_info("pool").pending_steps
    assert {step.run_id for step in waiting if step.assigned_timestamp is None} == {"run-2"}
