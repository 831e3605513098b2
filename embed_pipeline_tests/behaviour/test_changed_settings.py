"""What becomes of tasks and refusals when settings, bounds or the platform change after them."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from embed_pipeline.emulator.settings import Timing
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.submission_requests import SubmissionPlanner
from embed_pipeline.orchestration.versions import version_tags
from embed_pipeline_tests.world import World, range_tags

_OTHER = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256)


def test_a_result_is_written_and_judged_by_the_settings_its_task_was_made_with(world: World) -> None:
    world.emulator.platform.timing = Timing(on_command=True)
    world.add("a.wav")
    world.discover()
    asked = world.blueprint.settings
    world.emulator.platform.store.release(None, now=world.emulator.platform.clock.now())

    changed = world.varied(settings=_OTHER, submit_automatically=False)
    (run,) = changed.collect().runs

    assert run.success
    segments = world.segments("a.wav")
    assert segments.settings == asked.request("audio")
    assert segments.settings_digest == asked.digest("audio")
    (event,) = world.instance.fetch_materializations(world.blueprint.names.segment_embeddings, limit=1).records
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["embed_pipeline/settings_digest"].value == asked.digest("audio")
    for evaluation in run.get_asset_check_evaluations():
        assert evaluation.passed, evaluation


def test_a_task_tells_its_settings_whatever_the_models_options_become() -> None:
    settings = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256, start_sec=1.5)
    event = dg.AssetMaterialization(
        "embedding_tasks",
        partition="a.wav",
        metadata={
            "embed_pipeline/task_id": "1",
            "embed_pipeline/settings": settings.spelled_out().model_dump(mode="json"),
        },
        tags=version_tags("1"),
    )
    record = TaskRecord.from_event(event, 1, 0.0)

    assert record is not None
    assert record.settings is not None
    assert record.settings.video_options == ("visual", "audio")
    assert record.settings.code_version == settings.code_version


def test_a_tick_says_that_tasks_are_on_a_platform_which_it_does_not_ask(world: World) -> None:
    world.add("a.wav", "b.wav")
    world.discover()
    asked_elsewhere = EmbedClientResource(base_url="http://platform.invalid/v1.3", api_key="key")
    moved = world.varied(client=asked_elsewhere, submit_automatically=False)

    tick = moved.collect()

    assert tick.runs == ()
    assert "2 tasks were created on emulator, and this pipeline asks platform.invalid" in str(tick.message)
    assert "set EMBED_BASE_URL" in str(tick.message)


def test_what_the_emulator_embedded_is_due_on_the_platform(world: World) -> None:
    world.add("a.wav", "b.wav")
    assert set(world.settle().values()) == {"embedded"}
    elsewhere = EmbedClientResource(base_url="http://platform.invalid/v1.3", api_key="key")

    moved = world.varied(client=elsewhere, submit_automatically=True)
    wanted = SubmissionPlanner(
        blueprint=moved.blueprint,
        instance=world.instance,
        library=moved.blueprint.library.library(),
        now=datetime.now(UTC),
        budget_sec=10.0,
    ).request(["a.wav", "b.wav"])

    assert [dict(tags) for tags in wanted.ranges] == [range_tags("a.wav", "b.wav")]
    assert world.discover().runs == (), "for the emulator nothing has changed"


def test_a_task_of_another_platform_is_neither_asked_for_nor_taken_for_expired(world: World) -> None:
    world.emulator.platform.timing = Timing(on_command=True)
    world.add("a.wav")
    world.discover()
    elsewhere = EmbedClientResource(base_url=world.emulator.base_url.replace("127.0.0.1", "127.0.0.2"), api_key="key")
    assert elsewhere.platform == "127.0.0.2", "for the pipeline this is not the emulator"
    moved = world.varied(client=elsewhere)

    assert moved.driver.collect_ready().runs == ()
    collected = moved.run(world.blueprint.names.collect_job, "a.wav")

    assert not collected.success
    assert "was created on emulator, and this pipeline asks 127.0.0.2" in world.words(collected)
    assert world.ledger.outcomes() == {}
    world.emulator.platform.store.release(None, now=world.emulator.platform.clock.now())
    assert world.settle() == {"a.wav": "embedded"}
    assert world.created().total() == 1


def test_a_refusal_holds_under_the_bounds_and_settings_it_was_made_under(world: World) -> None:
    strict = world.varied(min_duration_sec=10.0)
    world.add("a.wav")

    assert strict.settle() == {"a.wav": "failed"}
    assert strict.discover().runs == ()
    assert strict.varied(min_duration_sec=6.0).settle() == {"a.wav": "failed"}
    assert strict.varied(min_duration_sec=1.0).settle() == {"a.wav": "embedded"}


def test_settings_that_come_back_cost_nothing_however_old_their_results(world: World) -> None:
    world.add("a.wav", "b.wav")
    world.settle()
    world.varied(settings=_OTHER).settle()
    assert world.created() == {"a.wav": 2, "b.wav": 2}
    world.emulator.platform.clock.advance(8 * 86400)
    outlived = world.varied(result_lifetime_sec=0.001)

    assert set(outlived.settle().values()) == {"embedded"}

    assert world.created() == {"a.wav": 2, "b.wav": 2}
    assert world.ledger.latest_tasks(["a.wav"])["a.wav"].settings_digest == world.blueprint.settings.digest("audio")
    assert world.ledger.outcomes() == {}


def test_segments_that_another_content_has_replaced_are_not_taken_for_those_of_a_task(world: World) -> None:
    world.add("a.wav", first_seed=1)
    world.settle()
    (world.media / "a.wav").rename(world.root / "aside.wav")
    world.add("a.wav", first_seed=2)
    world.settle()
    world.emulator.platform.clock.advance(8 * 86400)
    (world.root / "aside.wav").rename(world.media / "b.wav")

    assert set(world.settle().values()) == {"embedded"}

    assert world.segments("b.wav").task_id != world.segments("a.wav").task_id
    assert world.segments("b.wav").fingerprint != world.segments("a.wav").fingerprint
