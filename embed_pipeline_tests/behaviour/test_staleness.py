"""What changed is what Dagster calls stale, and nothing else."""

from __future__ import annotations

from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.pipeline.settings import Segmentation
from embed_pipeline_tests.world import World


def stale(world: World) -> set[tuple[str, str]]:
    """The partitions that Dagster calls anything but fresh, with their asset."""
    names = world.blueprint.names
    graph = build_definitions(world.blueprint).get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(world.instance, graph, LoadingContextForTest(world.instance))
    return {
        (asset.path[-1], key)
        for asset in (names.embedding_tasks, names.segment_embeddings)
        for key in world.partitions()
        if resolver.get_status(asset, key) is not StaleStatus.FRESH
    }


def test_after_a_range_run_everything_is_fresh_and_a_changed_file_alone_becomes_stale(world: World) -> None:
    world = world.varied(submit_automatically=False)
    world.add("a.wav", "b.wav", "c.wav")
    world.discover()
    assert world.submit("a.wav", "c.wav").success
    world.collect()
    assert stale(world) == set()

    world.add("b.wav", first_seed=9)
    world.discover()
    assert stale(world) == {("embedding_tasks", "b.wav")}

    world.submit("b.wav")
    assert stale(world) == {("segment_embeddings", "b.wav")}
    world.collect()
    assert stale(world) == set()


def test_a_single_partition_and_both_assets_in_one_run_are_fresh(world: World) -> None:
    world = world.varied(submit_automatically=False, collect_wait_sec=20.0)
    world.add("a.wav", "b.wav")
    world.discover()

    assert world.materialize("a.wav", "a.wav").success

    assert stale(world) == {("embedding_tasks", "b.wav"), ("segment_embeddings", "b.wav")}


def test_what_is_attached_again_is_fresh_under_its_new_name_too(world: World) -> None:
    world.add("a.wav", "b.wav")
    world.settle()
    world.submit("a.wav", "b.wav")
    assert stale(world) == set(), "the same tasks were found to serve: nothing downstream is out of date"

    (world.media / "a.wav").rename(world.media / "z.wav")
    world.settle()
    assert {key for _, key in stale(world)} <= {"a.wav"}


def test_other_settings_make_every_partition_stale(world: World) -> None:
    world.add("a.wav", "b.wav")
    world.settle()
    settings = world.blueprint.settings.model_copy(update={"scopes": ("clip",)})
    changed = world.varied(settings=settings)

    assert {key for asset, key in stale(changed) if asset == "embedding_tasks"} == {"a.wav", "b.wav"}

    assert changed.submit("a.wav", "b.wav").success
    assert stale(changed) == {("segment_embeddings", "a.wav"), ("segment_embeddings", "b.wav")}
    changed.collect()
    assert stale(changed) == set()
    assert changed.created() == {"a.wav": 2, "b.wav": 2}


def test_settings_that_do_not_concern_a_file_leave_nothing_of_it_stale_once_it_is_attached_again(world: World) -> None:
    world.add("a.wav", "gone.wav")
    world.settle()
    (world.media / "gone.wav").unlink()
    world.settle()
    films_only = Segmentation(strategy="dynamic", seconds=5)
    changed = world.varied(
        settings=world.blueprint.settings.model_copy(update={"video_segmentation": films_only}),
        submit_automatically=False,
    )
    assert stale(changed) == {("embedding_tasks", "a.wav"), ("embedding_tasks", "gone.wav")}

    assert changed.submit("a.wav", "gone.wav").success

    assert stale(changed) == set()
    assert changed.created() == {"a.wav": 1, "gone.wav": 1}
