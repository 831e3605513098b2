"""embeddings_table and the table of outcomes: what is in them, how little is done for a change, and when."""

from __future__ import annotations

from uuid import uuid4

import dagster as dg
import pytest

from embed_pipeline.dataset import read_embeddings
from embed_pipeline.pipeline.publish import decide_refresh
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy, Segmentation
from embed_pipeline_tests.world import World

_POLICY = PipelinePolicy(table_interval_sec=900, table_longest_sec=6 * 3600, sensor_interval_sec=30)


def _refresh(world: World) -> dg.ExecuteInProcessResult:
    result = world.driver.run("refresh_embeddings_table", {})
    assert result.success, world.words(result)
    return result


def _rows(world: World) -> dict[str, dict[str, object]]:
    return {str(row["media"]): row for row in world.blueprint.store.dataset().read_outcomes().to_pylist()}


def _media_in_the_table(world: World) -> set[str]:
    table = read_embeddings(world.blueprint.store.dataset(), columns=("media",), source="snapshot")
    return set(table.column("media").to_pylist())


def test_every_media_file_has_one_row_that_tells_what_became_of_it(world: World) -> None:
    world.add("one.wav", "two.wav", seconds=30.0)
    (world.media / "broken.mp4").write_bytes(b"no media")
    world.step()
    world.add("waiting.wav")
    world.discover()

    (run,) = world.driver.refresh_table().runs

    assert run.success
    rows = _rows(world)
    assert {key: row["state"] for key, row in rows.items()} == world.states()
    one = rows["one.wav"]
    assert one["segments"] == len(world.segments("one.wav"))
    assert one["duration_sec"] == pytest.approx(30.0)
    assert one["minutes_billed"] == pytest.approx(0.5)
    assert (one["attempts"], one["media_type"]) == (1, "audio")
    assert one["task_id"] == world.statuses()["one.wav"].task_id
    assert one["submitted_at"] <= one["embedded_at"]  # type: ignore[operator]
    assert "broken.mp4" in str(rows["broken.mp4"]["error"])
    assert rows["waiting.wav"]["segments"] is None
    assert _media_in_the_table(world) == {"one.wav", "two.wav"}


def test_a_file_that_is_gone_is_in_the_table_of_outcomes_alone(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.settle()
    (world.media / "two.wav").unlink()
    world.discover()

    _refresh(world)

    assert _media_in_the_table(world) == {"one.wav"}
    assert _rows(world)["two.wav"]["state"] == "gone"
    assert world.segments("two.wav") is not None, "its segments stay in the dataset"


def test_the_table_holds_each_media_file_once_also_after_its_settings_changed(world: World) -> None:
    world.add("one.wav", "two.wav")
    world.step()
    _refresh(world)
    other = world.varied(settings=EmbeddingSettings(audio_segmentation=Segmentation(strategy="fixed", seconds=2)))
    other.submit("two.wav")
    other.collect()

    _refresh(other)

    table = read_embeddings(world.blueprint.store.dataset(), columns=("media", "settings_digest"), source="snapshot")
    digests = {(row["media"], row["settings_digest"]) for row in table.to_pylist()}
    assert digests == {
        ("one.wav", world.blueprint.settings.digest("audio")),
        ("two.wav", other.blueprint.settings.digest("audio")),
    }


def test_a_file_that_is_embedded_again_stays_in_the_table_meanwhile(world: World) -> None:
    world.add("one.wav")
    world.step()
    world.add("one.wav", first_seed=99)
    world.discover()
    assert world.states() == {"one.wav": "processing"}

    _refresh(world)

    assert _media_in_the_table(world) == {"one.wav"}
    assert _rows(world)["one.wav"]["segments"] is None


def test_an_idle_tick_asks_the_platform_nothing_and_for_nothing(world: World) -> None:
    assert "no media files yet" in str(world.driver.refresh_table().message)
    world.add("one.wav")
    world.step()
    world.let_pass(60)
    assert len(world.driver.refresh_table().runs) == 1
    before = world.requests()

    tick = world.driver.refresh_table()

    assert not tick.runs
    assert "Nothing has changed" in str(tick.message)
    assert world.requests() == before


def test_a_refresh_that_hangs_does_not_stand_in_the_way_for_ever(world: World) -> None:
    world.add("one.wav")
    world.settle()
    assert world.driver.refresh_table().runs
    hanging = dg.DagsterRun(
        job_name="refresh_embeddings_table", run_id=str(uuid4()), status=dg.DagsterRunStatus.STARTED
    )
    world.instance.add_run(hanging)
    world.instance.report_engine_event("Building the table.", hanging)
    world.add("two.wav")
    world.settle()
    soon = world.varied(table_interval_sec=0.0)
    assert "under way" in str(soon.driver.refresh_table().message)
    assert soon.varied(table_longest_sec=1e-6).driver.refresh_table().runs


def test_the_checks_of_the_tasks_run_with_the_table_and_name_the_failed_file(world: World) -> None:
    (world.media / "broken.mp4").write_bytes(b"no media")
    world.step()

    evaluations = {one.check_name: one for one in _refresh(world).get_asset_check_evaluations()}

    assert {name: one.passed for name, one in evaluations.items()} == {
        "no_file_failed": False,
        "nothing_stuck": True,
        "no_result_about_to_expire": True,
        "no_orphaned_task": True,
        "one_vector_space": True,
        "dataset_matches_ledger": True,
    }
    assert str(evaluations["no_file_failed"].description).startswith("broken.mp4: failed: ")


@pytest.mark.parametrize(
    ("changed", "pending", "minutes_ago", "due"),
    [
        (True, 0, None, True),
        (True, 3, None, True),
        (False, 0, None, False),
        (False, 0, 10, False),
        (True, 3, 10, False),
        (True, 3, 16, True),
        (True, 0, 2, True),
        (True, 0, 0.2, False),
        (False, 0, 7 * 60, True),
    ],
)
def test_the_table_is_due_when_results_are_in_and_not_once_for_each_file(
    changed: bool, pending: int, minutes_ago: float | None, due: bool
) -> None:
    age_sec = None if minutes_ago is None else minutes_ago * 60
    decision = decide_refresh(changed=changed, pending=pending, age_sec=age_sec, policy=_POLICY)
    assert decision.due == due
    assert decision.reason


def test_a_first_library_whose_tasks_all_hang_raises_the_alarm(world: World) -> None:
    world = world.varied(stuck_after_sec=1e-6, table_longest_sec=1e-6)
    world.add("one.wav", "two.wav")
    world.discover()

    for _ in range(2):
        (run,) = world.driver.refresh_table().runs
        failed = {one.check_name for one in run.get_asset_check_evaluations() if not one.passed}
        assert failed == {"nothing_stuck"}
    assert _media_in_the_table(world) == set()
