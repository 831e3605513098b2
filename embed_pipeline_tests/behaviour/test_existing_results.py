"""The dataset knows what was paid for, also where the event log has forgotten it."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import dagster as dg
import pytest

from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline_tests.orchestration.test_staleness import stale
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


def forget(world: World, *jobs: str) -> None:
    """Delete the runs of these jobs, as people do who tidy up, and as a retention setting does."""
    for job in jobs:
        runs = world.instance.get_runs(dg.RunsFilter(job_name=job))
        assert runs
        for run in runs:
            world.instance.delete_run(run.run_id)


def requests_to(world: World, endpoint: str) -> int:
    return len(world.emulator.platform.journal.entries(endpoint=endpoint, limit=1000))


def test_deleted_runs_cost_nothing_again(embedded: World) -> None:
    names = embedded.blueprint.names
    fetched = requests_to(embedded, "retrieve")
    forget(embedded, names.submit_job, names.collect_job)
    assert set(embedded.states().values()) == {"unsubmitted"}

    [run] = embedded.discover().runs

    assert run.success
    assert set(embedded.states().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    assert requests_to(embedded, "retrieve") == fetched
    row = embedded.statuses()["a.wav"]
    assert row.segments == len(embedded.segments("a.wav"))
    assert row.task_id == embedded.segments("a.wav").task_id
    assert not stale(embedded), "and Dagster takes them for fresh"
    assert embedded.settle() == {"a.wav": "embedded", "b.wav": "embedded"}


@pytest.mark.parametrize("asset", ["embedding_tasks", "segment_embeddings"])
def test_a_wiped_asset_is_filled_again_for_nothing(embedded: World, asset: str) -> None:
    embedded.instance.wipe_assets([getattr(embedded.blueprint.names, asset)])

    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}


def test_a_new_dagster_instance_finds_what_an_old_one_paid_for(
    embedded: World, other_instance: dg.DagsterInstance
) -> None:
    moved = World(embedded.root, other_instance, embedded.emulator)

    assert set(moved.settle().values()) == {"embedded"}
    assert moved.created() == {"a.wav": 1, "b.wav": 1}


def test_a_file_that_was_renamed_after_its_runs_were_deleted_costs_nothing(embedded: World) -> None:
    names = embedded.blueprint.names
    forget(embedded, names.submit_job, names.collect_job)
    (embedded.media / "a.wav").rename(embedded.media / "z.wav")

    embedded.settle()

    # Of the old name nothing is known any more but that it vanished, so it is forgotten.
    assert embedded.states() == {"b.wav": "embedded", "z.wav": "embedded"}
    assert embedded.segments("z.wav").media_uri.endswith("z.wav")
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}


def test_other_content_and_force_are_paid_for(embedded: World) -> None:
    names = embedded.blueprint.names
    forget(embedded, names.submit_job, names.collect_job)
    embedded.add("a.wav", first_seed=7)

    assert embedded.submit("b.wav", force=True).success
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 2, "b.wav": 2}


def test_vectors_of_the_emulator_are_not_taken_for_the_platforms(embedded: World) -> None:
    names = embedded.blueprint.names
    forget(embedded, names.submit_job, names.collect_job)

    with mock.patch.object(EmbedClientResource, "platform", "api.example.com"):
        assert embedded.varied(
            client=EmbedClientResource(base_url=embedded.emulator.base_url, delivery="file")
        ).settle() == {"a.wav": "embedded", "b.wav": "embedded"}

    assert embedded.created() == {"a.wav": 2, "b.wav": 2}


def test_nothing_is_paid_for_where_the_dataset_cannot_be_read(embedded: World) -> None:
    names = embedded.blueprint.names
    forget(embedded, names.submit_job, names.collect_job)
    dataset = embedded.blueprint.store.dataset()
    [file] = dataset.find("a.wav", embedded.blueprint.settings.digest("audio"))
    dataset.storage.put(file.path, b"no parquet")

    [run] = embedded.discover().runs

    assert not run.success
    assert file.uri in embedded.words(run)
    assert embedded.states() == {"a.wav": "unsubmitted", "b.wav": "embedded"}
    assert embedded.created() == {"a.wav": 1, "b.wav": 1}
    dataset.delete("a.wav")
    assert set(embedded.settle().values()) == {"embedded"}
    assert embedded.created() == {"a.wav": 2, "b.wav": 1}
