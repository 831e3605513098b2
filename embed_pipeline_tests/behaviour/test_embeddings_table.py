"""embeddings_table and the table of outcomes: what is in them, how little is done for a change, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from embed_pipeline.dataset import read_embeddings
from embed_pipeline.orchestration import outcome_rows, table
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.settings import EmbeddingSettings, Segmentation
from embed_pipeline.orchestration.table import refresh_due
from embed_pipeline_tests.world import World

_NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
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


def test_only_what_changed_is_read_from_the_event_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("one.wav", "two.wav", "three.wav")
    world.step()
    _refresh(world)
    read: list[list[str]] = []
    real = outcome_rows.read_outcomes
    monkeypatch.setattr(
        outcome_rows,
        "read_outcomes",
        lambda ledger, states, keys: read.append(list(keys)) or real(ledger, states, keys),
    )
    world.add("two.wav", first_seed=99)
    world.step()
    before = _rows(world)

    _refresh(world)
    _refresh(world)

    assert read == [["two.wav"], []]
    after = _rows(world)
    assert after["two.wav"]["fingerprint"] != before["two.wav"]["fingerprint"]
    assert {key: row for key, row in after.items() if key != "two.wav"} == {
        key: row for key, row in before.items() if key != "two.wav"
    }


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
    assert len(world.driver.refresh_table().runs) == 1
    before = world.requests()

    tick = world.driver.refresh_table()

    assert not tick.runs
    assert "Nothing has changed" in str(tick.message)
    assert world.requests() == before


def test_a_refresh_that_was_never_queued_does_not_stand_in_the_way_for_ever(world: World) -> None:
    world.add("one.wav")
    world.settle()
    run_id = str(uuid4())
    world.instance.add_run(
        dg.DagsterRun(job_name="refresh_embeddings_table", run_id=run_id, status=dg.DagsterRunStatus.NOT_STARTED)
    )
    assert "under way" in str(world.driver.refresh_table().message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "RUNS_COUNT_FOR", timedelta(seconds=-1))
        assert "under way" not in str(world.driver.refresh_table().message)


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
    asked = None if minutes_ago is None else _NOW - timedelta(minutes=minutes_ago)
    decision = refresh_due(changed=changed, pending=pending, last_asked=asked, now=_NOW, policy=_POLICY)
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
