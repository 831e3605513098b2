"""Deleted runs, wiped assets, a new instance, another library root or a lost ledger: nothing is paid for again."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import dagster as dg
import pytest

from embed_pipeline.emulator.settings import Timing
from embed_pipeline.errors import DatasetError
from embed_pipeline.orchestration.resources import EmbedClientResource, MediaLibraryResource
from embed_pipeline_tests.behaviour.test_staleness import stale
from embed_pipeline_tests.world import World

_LONG = 8 * 86400


@pytest.fixture
def other_instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def embedded(world: World) -> World:
    """Two files that are embedded, so long ago that the platform keeps nothing of them."""
    world.add("a.wav", "b.wav")
    world.settle()
    world.emulator.platform.clock.advance(_LONG)
    return world


def delete_runs(world: World) -> None:
    """Delete all runs, as people do who tidy up, and as a retention setting does."""
    runs = world.instance.get_runs()
    assert runs
    for run in runs:
        world.instance.delete_run(run.run_id)


def lose_the_ledger(world: World) -> None:
    for file in (world.root / "embeddings").glob("ledger.db*"):
        file.unlink()


def requests_to(world: World, endpoint: str) -> int:
    return len(world.emulator.platform.journal.entries(endpoint=endpoint, limit=1000))


def planned_minutes(world: World) -> float:
    run = world.driver.run("plan_embedding_tasks", {})
    (output,) = [event for event in run.all_node_events if event.is_successful_output]
    return float(output.step_output_data.metadata["embed_pipeline/minutes"].value)  # type: ignore[arg-type]


def test_deleted_runs_cost_nothing_again(embedded: World) -> None:
    before, requests = embedded.statuses(), embedded.requests()
    delete_runs(embedded)

    assert planned_minutes(embedded) == 0
    discovered, collected = embedded.step()

    assert not discovered.runs
    assert not collected.runs
    assert embedded.statuses() == before
    assert embedded.requests() == requests
    assert embedded.submit("a.wav", "b.wav").success, "a person who asks for them again pays nothing"
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    assert embedded.partition_statuses("embedding_tasks") == {"a.wav": "MATERIALIZED", "b.wav": "MATERIALIZED"}


@pytest.mark.parametrize("asset", ["media_files", "embedding_tasks", "segment_embeddings"])
def test_a_wiped_asset_costs_nothing(embedded: World, asset: str) -> None:
    embedded.instance.wipe_assets([embedded.blueprint.names.asset_key(asset)])

    assert planned_minutes(embedded) == 0
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.materialize("a.wav", "b.wav").success
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    assert set(embedded.settle().values()) == {"embedded"}


def test_a_new_instance_over_the_same_ledger_gets_partitions_and_events_again_and_pays_nothing(
    embedded: World, other_instance: dg.DagsterInstance
) -> None:
    (embedded.media / "b.wav").rename(embedded.root / "aside.wav")
    embedded.settle()
    (embedded.media / "broken.wav").write_bytes(b"no sound")
    embedded.settle()
    requests = embedded.requests()
    moved = World(embedded.root, other_instance, embedded.emulator)

    assert moved.settle() == {"a.wav": "embedded", "b.wav": "gone", "broken.wav": "failed"}

    assert moved.created() == {"a.wav": 1, "b.wav": 1}
    assert moved.requests() == requests, "nothing is asked of the platform"
    assert set(moved.partitions()) == {"a.wav", "b.wav", "broken.wav"}
    assert moved.partition_statuses("segment_embeddings") == {"a.wav": "MATERIALIZED", "b.wav": "MATERIALIZED"}
    assert not {key for _, key in stale(moved)} - {"b.wav", "broken.wav"}, "and Dagster takes what is embedded as fresh"
    reported = moved.latest("segment_embeddings", "a.wav").metadata
    assert reported["embed_pipeline/segments"].value == len(moved.segments("a.wav"))
    assert reported["embed_pipeline/task_id"].value == moved.segments("a.wav").task_id
    assert [event.tags["dagster/data_version"][:5] for event in moved.observations("media_files", "b.wav")][
        -1
    ] == "gone."
    assert "not playable" in str(
        moved.observations("embedding_tasks", "broken.wav")[-1].metadata["embed_pipeline/error"]
    )
    assert moved.unreported() == 0
    assert not moved.discover().runs, "once, and not at every tick"
    assert moved.unreported() == 0


def test_a_new_instance_goes_on_with_the_tasks_in_flight(world: World, other_instance: dg.DagsterInstance) -> None:
    world.emulator.platform.timing = Timing(on_command=True)
    world.add("a.wav", "b.wav")
    world.discover()
    moved = World(world.root, other_instance, world.emulator)

    assert not moved.discover().runs
    world.emulator.platform.store.release(None, now=world.emulator.platform.clock.now())

    assert moved.settle() == {"a.wav": "embedded", "b.wav": "embedded"}
    assert moved.created() == {"a.wav": 1, "b.wav": 1}


def test_a_file_that_was_renamed_meanwhile_costs_nothing(embedded: World, other_instance: dg.DagsterInstance) -> None:
    delete_runs(embedded)
    (embedded.media / "a.wav").rename(embedded.media / "z.wav")
    moved = World(embedded.root, other_instance, embedded.emulator)

    assert planned_minutes(moved) == 0
    assert moved.settle() == {"a.wav": "gone", "b.wav": "embedded", "z.wav": "embedded"}
    assert moved.segments("z.wav").media_uri.endswith("z.wav")
    assert moved.created() == {"a.wav": 1, "b.wav": 1}


def test_a_library_whose_root_moved_so_that_every_key_changed_costs_nothing(embedded: World) -> None:
    library = MediaLibraryResource(location=str(embedded.root), include=["media/*"], settle_sec=0.0)
    moved = embedded.varied(library=library)

    assert planned_minutes(moved) == 0
    assert moved.settle() == {
        "a.wav": "gone",
        "b.wav": "gone",
        "media/a.wav": "embedded",
        "media/b.wav": "embedded",
    }
    assert moved.created() == {"a.wav": 1, "b.wav": 1}


def test_a_ledger_that_is_lost_alone_learns_from_the_dataset(embedded: World) -> None:
    lose_the_ledger(embedded)

    assert planned_minutes(embedded) == 0
    assert set(embedded.settle().values()) == {"embedded"}

    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    row = embedded.statuses()["a.wav"]
    assert row.segments == len(embedded.segments("a.wav"))
    assert row.task_id == embedded.segments("a.wav").task_id
    assert not stale(embedded)


def test_a_ledger_that_is_lost_with_the_instance_learns_from_the_dataset(
    embedded: World, other_instance: dg.DagsterInstance
) -> None:
    lose_the_ledger(embedded)
    (embedded.media / "a.wav").rename(embedded.media / "z.wav")
    moved = World(embedded.root, other_instance, embedded.emulator)

    assert planned_minutes(moved) == 0
    assert moved.settle() == {"a.wav": "gone", "b.wav": "embedded", "z.wav": "embedded"}
    assert moved.created() == {"a.wav": 1, "b.wav": 1}
    assert moved.partition_statuses("segment_embeddings").keys() >= {"b.wav", "z.wav"}
    assert not {key for _, key in stale(moved)} - {"a.wav"}


def test_ledger_and_dataset_that_are_lost_together_are_paid_for_again(embedded: World) -> None:
    """What nobody knows any more is new: also where Dagster's events would tell of it."""
    lose_the_ledger(embedded)
    dataset = embedded.blueprint.store.dataset()
    assert dataset.delete("a.wav")
    assert dataset.delete("b.wav")

    assert planned_minutes(embedded) > 0
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 2, "b.wav": 2}
    assert not stale(embedded)


def test_other_content_and_force_are_paid_for(embedded: World) -> None:
    delete_runs(embedded)
    embedded.add("a.wav", first_seed=7)

    assert embedded.submit("b.wav", force=True).success
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 2, "b.wav": 2}


def test_vectors_of_the_emulator_are_not_taken_for_the_platforms(embedded: World) -> None:
    lose_the_ledger(embedded)

    with mock.patch.object(EmbedClientResource, "platform", "api.example.com"):
        assert embedded.varied(
            client=EmbedClientResource(base_url=embedded.emulator.base_url, delivery="file")
        ).settle() == {"a.wav": "embedded", "b.wav": "embedded"}

    assert embedded.created() == {"a.wav": 2, "b.wav": 2}


def test_nothing_is_paid_for_where_the_dataset_of_a_lost_ledger_cannot_be_read(embedded: World) -> None:
    lose_the_ledger(embedded)
    dataset = embedded.blueprint.store.dataset()
    [file] = dataset.find("a.wav", embedded.blueprint.settings.digest("audio"))
    dataset.storage.put(file.path, b"no parquet")

    with pytest.raises(DatasetError, match=r"a\.wav"):
        embedded.discover()

    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    dataset.delete("a.wav")
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 2, "b.wav": 1}
