"""What becomes of tasks and refusals when settings, bounds or the platform change after them."""

from __future__ import annotations

from embed_pipeline.emulator.settings import Timing
from embed_pipeline.ledger import Step
from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation
from embed_pipeline_tests.world import World

_OTHER = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=256)
_OTHER_SOUND = EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=3))


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
    reported = world.latest("segment_embeddings", "a.wav").metadata
    assert reported["embed_pipeline/settings_digest"].value == asked.digest("audio")
    for evaluation in run.get_asset_check_evaluations():
        assert evaluation.passed, evaluation


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

    moved = world.varied(client=elsewhere)
    with moved.pipeline() as pipeline:
        due = sorted((file.key, file.step) for file in pipeline.ledger.due(pipeline.target))

    assert due == [("a.wav", Step.SUBMIT), ("b.wav", Step.SUBMIT)]
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
    assert world.states() == {"a.wav": "processing"}
    world.emulator.platform.store.release(None, now=world.emulator.platform.clock.now())
    world.forget_requests()
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
    reported = world.latest("embedding_tasks", "a.wav").metadata
    assert reported["embed_pipeline/settings_digest"].value == world.blueprint.settings.digest("audio")


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


def test_the_tasks_of_other_settings_are_found_and_discovery_comes_to_rest(world: World) -> None:
    world.add("one.wav", "two.wav", "three.wav")
    world.settle()
    before = world.statuses()
    changed = world.varied(settings=_OTHER_SOUND)

    assert set(changed.settle().values()) == {"embedded"}

    assert world.created() == {"one.wav": 2, "two.wav": 2, "three.wav": 2}
    after = changed.statuses()
    assert all(after[key].task_id != before[key].task_id for key in before)
    assert all(changed.segments(key) is not None for key in after)
    assert not changed.discover().runs


def test_settings_that_concern_no_file_cost_nothing(world: World) -> None:
    world.add("one.wav")
    world.settle()
    picture = EmbeddingSettings(video_segmentation=Segmentation(strategy="fixed", seconds=3))

    changed = world.varied(settings=picture)
    changed.settle()

    assert world.created() == {"one.wav": 1}
    assert not changed.discover().runs


def test_settings_are_not_followed_where_submission_is_left_to_people(world: World) -> None:
    world.add("one.wav")
    world.settle()

    assert not world.varied(settings=_OTHER_SOUND, submit_automatically=False).discover().runs


def test_settings_in_another_order_pay_for_nothing(world: World) -> None:
    world.add("a.wav")
    world.settle()

    for scopes, options in [(("asset", "clip"), ()), (("clip", "asset"), ("transcription", "audio"))]:
        again = world.varied(settings=EmbeddingSettings(scopes=scopes, audio_options=options))
        assert again.submit("a.wav").success
        assert again.settle() == {"a.wav": "embedded"}

    assert world.created() == {"a.wav": 1}
