"""What Dagster does where its interface is not public or not described; each test names what rests on it."""

# No deferred annotations here: Dagster reads the class of the context from the signature.

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from embed_pipeline.orchestration.events import NOTHING, output_without_events
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.ranges import RANGE_END_TAG, RANGE_START_TAG
from embed_pipeline.orchestration.versions import DATA_VERSION_TAG, version_tags

_MEDIA, _TASKS = dg.AssetKey("media"), dg.AssetKey("tasks")
_OBSERVED, _MATERIALIZED = dg.DagsterEventType.ASSET_OBSERVATION, dg.DagsterEventType.ASSET_MATERIALIZATION
_PARTITIONS = dg.DynamicPartitionsDefinition(name="files")


@pytest.fixture
def instance(stored_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """What is pinned is what users' storage does."""
    return stored_instance


def observe(instance: dg.DagsterInstance, key: str, version: str) -> None:
    instance.report_runless_asset_event(dg.AssetObservation(_MEDIA, partition=key, tags=version_tags(version)))


def test_the_index_gives_the_latest_data_version_of_every_partition(instance: dg.DagsterInstance) -> None:
    # ledger.Ledger reads all states from these two queries; without them a tick would read every event.
    for key, version in (("a", "1"), ("b", "1"), ("a", "2")):
        observe(instance, key, version)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(_MEDIA, partition="a", tags={DATA_VERSION_TAG: "other"})
    )
    storage = instance.event_log_storage

    tags = storage.get_latest_tags_by_partition(_MEDIA, _OBSERVED, [DATA_VERSION_TAG])
    ids = storage.get_latest_storage_id_by_partition(_MEDIA, _OBSERVED)

    assert tags == {"a": {DATA_VERSION_TAG: "2"}, "b": {DATA_VERSION_TAG: "1"}}, (
        "observations and materializations apart"
    )
    assert ids["a"] > ids["b"], "storage ids tell the order of events, also across assets"
    assert storage.get_latest_storage_id_by_partition(_MEDIA, _OBSERVED, partitions={"b"}) == {"b": ids["b"]}


def test_the_index_holds_no_other_tag(instance: dg.DagsterInstance) -> None:
    # versions.Outcome is written into the data version because nothing else can be read for all partitions at once.
    with pytest.raises(Exception, match="tag"):
        instance.event_log_storage.get_latest_tags_by_partition(_MEDIA, _OBSERVED, ["embed_pipeline/state"])


def test_events_stay_when_their_partition_is_deleted(instance: dg.DagsterInstance) -> None:
    # A renamed file is recognised by the events of a name that is gone; a retired one tells that its segments went.
    instance.add_dynamic_partitions("files", ["a"])
    observe(instance, "a", "1")
    instance.delete_dynamic_partition("files", "a")

    assert "a" in instance.event_log_storage.get_latest_tags_by_partition(_MEDIA, _OBSERVED, [DATA_VERSION_TAG])


def test_key_order_is_the_order_of_adding(instance: dg.DagsterInstance) -> None:
    # ranges.contiguous_ranges rests on it: a range run targets what lies between two keys in this order.
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
    # events.output_without_events: an asset logs each partition's event itself, and the next asset still runs.
    instance.add_dynamic_partitions("files", ["a", "skipped", "b"])

    assert run(instance, "a", "b").success

    found = instance.fetch_materializations(_TASKS, limit=10).records
    assert {record.partition_key for record in found} == {"a", "b"}, "no second event, and none for what was skipped"
    assert not instance.fetch_observations(_TASKS, limit=10).records
    assert instance.fetch_materializations(segments.key, limit=10).records, "the downstream step was not skipped"


def test_a_range_whose_end_lies_before_its_start_targets_nothing_without_a_word(instance: dg.DagsterInstance) -> None:
    # events.targeted_partitions fails such a run; Dagster alone would let it succeed.
    instance.add_dynamic_partitions("files", ["a", "b"])

    assert run(instance, "b", "a").success
    assert not instance.fetch_materializations(_TASKS, limit=10).records


def test_a_partition_whose_upstream_was_observed_anew_is_stale(instance: dg.DagsterInstance) -> None:
    # versions.version_tags: with these tags on events that an asset logs itself, Dagster's own staleness is right.
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


def test_a_concurrency_slot_is_claimed_by_one_and_freed_by_hand(instance: dg.DagsterInstance) -> None:
    # submission_lock: one slot is a lock over every process that shares the instance; no one frees a dead run's slot.
    storage = instance.event_log_storage
    assert storage.supports_global_concurrency_limits
    storage.set_concurrency_slots("lock", 1)

    assert storage.claim_concurrency_slot("lock", "run-1", "lock").is_claimed
    assert storage.claim_concurrency_slot("lock", "run-1", "lock").is_claimed, "the holder may ask again"
    assert not storage.claim_concurrency_slot("lock", "run-2", "lock").is_claimed
    info = storage.get_concurrency_info("lock")
    assert {slot.run_id for slot in info.claimed_slots} == {"run-1"}
    storage.free_concurrency_slots_for_run("run-1")
    assert storage.claim_concurrency_slot("lock", "run-2", "lock").is_claimed
    storage.free_concurrency_slot_for_step("run-2", "lock")
    assert not storage.get_concurrency_info("lock").claimed_slots


def test_run_tags_can_be_added_and_changed_while_the_run_goes_on(instance: dg.DagsterInstance) -> None:
    # open_submissions: a run is marked as creating tasks before it sends anything, and is found by that mark.
    record = dg.DagsterRun(job_name="any", run_id="11111111-1111-4111-8111-111111111111")
    instance.add_run(record)
    for mark in ("open", "settled"):
        instance.add_run_tags(record.run_id, {"embed_pipeline/submission": mark})

        found = instance.get_run_records(dg.RunsFilter(tags={"embed_pipeline/submission": mark}))
        assert [one.dagster_run.run_id for one in found] == [record.run_id]
    assert not instance.get_run_records(dg.RunsFilter(tags={"embed_pipeline/submission": "open"}))


def test_the_index_tells_which_partitions_ever_had_a_data_version(instance: dg.DagsterInstance) -> None:
    # ledger.Ledger.holders asks the index itself for it: Dagster has no query of its own.
    names = PipelineNames()
    for key, version in (("a", "1"), ("b", "1"), ("a", "2"), ("c", "gone.2")):
        event = dg.AssetObservation(names.media_files, partition=key, tags=version_tags(version))
        instance.report_runless_asset_event(event)
    instance.report_runless_asset_event(
        dg.AssetObservation(names.embedding_tasks, partition="d", tags=version_tags("1"))
    )

    assert Ledger(instance, names).holders(["1", "2", "3"]) == {"1": {"a", "b"}, "2": {"a"}}
