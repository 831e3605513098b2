"""Checks: what they say, that nothing found is forgotten, and that a person learns what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from embed_pipeline.orchestration.checks import DATASET, PROBLEMS, TASK_CHECKS, check_result, task_check_results
from embed_pipeline.pipeline import collect
from embed_pipeline.pipeline.publish import mixed_spaces
from embed_pipeline.pipeline.validate import Problems
from embed_pipeline_tests.world import World


def latest(world: World, asset: dg.AssetKey, name: str) -> dg.AssetCheckEvaluation | None:
    key = dg.AssetCheckKey(asset, name)
    records = world.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    event = records[0].event if records else None
    found = event.dagster_event.event_specific_data if event is not None and event.dagster_event else None
    return found if isinstance(found, dg.AssetCheckEvaluation) else None


def problems_in(evaluation: dg.AssetCheckEvaluation | dg.AssetCheckResult) -> dict[str, str]:
    table = (evaluation.metadata or {}).get(PROBLEMS)
    assert isinstance(table, dg.TableMetadataValue)
    return {str(record.data["media"]): str(record.data["problem"]) for record in table.records}


def test_a_checks_result_carries_its_problems() -> None:
    problems = {f"{number}.mp4": f"problem {number}. Do this." for number in range(7)}
    result = check_result("some_check", problems, checked=9, fine="", severity=dg.AssetCheckSeverity.WARN)

    assert not result.passed
    assert "0.mp4: problem 0. Do this." in str(result.description)
    assert "and 4 more" in str(result.description)
    assert problems_in(result) == problems


def test_one_space_is_fine_and_two_are_named() -> None:
    assert mixed_spaces({}) is None
    assert mixed_spaces({"marengo3.0-512": 7}) is None
    assert "marengo3.0-512 (7 media files), signal-2-512 (1 media files)" in str(
        mixed_spaces({"signal-2-512": 1, "marengo3.0-512": 7})
    )


def test_what_is_wrong_with_one_file_outlives_runs_over_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of other files must not hide what is wrong with one, not even after a run that died before its checks."""
    wrong = Problems(vectors="1 of 7 segments are zero. Materialize it anew.")
    monkeypatch.setattr(collect, "validate", lambda *_, **__: wrong)
    world.add("bad.wav")
    world.step()
    monkeypatch.undo()
    world.add("good.wav")
    world.step()
    asset = world.blueprint.names.segment_embeddings

    found = latest(world, asset, "vectors_sound")

    assert found is not None
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert problems_in(found).keys() == {"bad.wav"}
    offsets = latest(world, asset, "offsets_sound")
    assert offsets is not None
    assert offsets.passed
    world.submit("bad.wav", force=True)
    world.collect()
    found = latest(world, asset, "vectors_sound")
    assert found is not None
    assert found.passed, "embedded anew, it is found sound"


def task_checks(world: World, **policy: Any) -> dict[str, dg.AssetCheckResult]:
    other = world.varied(**policy)
    with other.pipeline() as pipeline:
        results = list(task_check_results(other.blueprint.names, pipeline, TASK_CHECKS))
    return {str(result.check_name): result for result in results}


def test_a_file_that_failed_is_named_in_the_platforms_words(world: World) -> None:
    world.add("bad.wav", "good.wav")
    world.faults({"kind": "fail", "message": "could_not_process", "match": "bad.wav"})
    world.settle()

    found = task_checks(world)["no_file_failed"]

    assert not found.passed
    assert problems_in(found).keys() == {"bad.wav"}
    assert "retry_failed" in problems_in(found)["bad.wav"]


def test_a_task_that_takes_too_long_and_a_result_about_to_expire_are_named(world: World) -> None:
    world.add("one.wav")
    world.discover()

    fine = task_checks(world)
    late = task_checks(world, stuck_after_sec=1e-6, expiry_alarm_sec=8 * 86400.0)

    assert fine["nothing_stuck"].passed
    assert fine["no_result_about_to_expire"].passed
    assert "has been processing for" in problems_in(late["nothing_stuck"])["one.wav"]
    assert "expires in" in problems_in(late["no_result_about_to_expire"])["one.wav"]
    assert late["no_result_about_to_expire"].severity is dg.AssetCheckSeverity.ERROR


def test_a_deleted_and_a_damaged_file_of_segments_are_found(world: World) -> None:
    world.add("one.wav", "two.wav", "three.wav")
    world.settle()
    files = sorted((world.root / "embeddings" / "segments").rglob("*.parquet"))
    next(file for file in files if file.name.startswith("one")).unlink()
    next(file for file in files if file.name.startswith("two")).write_bytes(Path(__file__).read_bytes())

    world.driver.run(world.blueprint.names.refresh_job, {})

    found = latest(world, world.blueprint.names.embeddings_table, DATASET)
    assert found is not None
    assert not found.passed
    assert problems_in(found).keys() == {"one.wav", "two.wav"}
    assert "check --repair" in problems_in(found)["one.wav"]
