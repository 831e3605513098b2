"""Which partitions runs are at work on: nothing is asked for twice, and nothing is stranded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from embed_pipeline.orchestration import runs
from embed_pipeline.orchestration.ranges import RANGE_END_TAG, RANGE_START_TAG, EndedRun, in_vain
from embed_pipeline.orchestration.runs import IMPLICIT_JOB, RunsOfAsset, runs_of_asset
from embed_pipeline_tests.world import World

_ASSET, _ORDER = dg.AssetKey("embedding_tasks"), ["a", "b", "c", "d"]
_RANGE = {RANGE_START_TAG: "b", RANGE_END_TAG: "c"}


def look(instance: dg.DagsterInstance, since: timedelta = timedelta(hours=6)) -> RunsOfAsset:
    return runs_of_asset(instance, _ASSET, ["submit"], _ORDER, since=datetime.now(UTC) - since)


def add(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, job: str = "submit", **values: object) -> None:
    instance.add_run(
        dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=status, tags=values.pop("tags", _RANGE), **values)
    )


def test_starting_and_running_runs_are_at_work_on_their_range(instance: dg.DagsterInstance) -> None:
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
        add(instance, status)
        assert look(instance).in_flight == {"b", "c"}
    add(instance, dg.DagsterRunStatus.STARTED, tags={"dagster/partition": "d"})
    assert look(instance).in_flight == {"b", "c", "d"}


def test_runs_of_other_jobs_and_other_assets_do_not_count(instance: dg.DagsterInstance) -> None:
    add(instance, dg.DagsterRunStatus.STARTED, job="another")
    add(instance, dg.DagsterRunStatus.STARTED, asset_selection=frozenset({dg.AssetKey("other")}))
    assert look(instance).in_flight == set()

    add(instance, dg.DagsterRunStatus.STARTED, job="a backfill's", asset_selection=frozenset({_ASSET}))
    assert look(instance).in_flight == {"b", "c"}


def test_runs_in_process_count_as_those_of_the_daemon_do(instance: dg.DagsterInstance) -> None:
    for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE):
        add(instance, status, asset_selection=frozenset())

    found = look(instance)

    assert found.in_flight == {"b", "c"}
    assert [run.keys for run in found.failed] == [("b", "c")]


def test_a_failed_run_in_process_is_not_repeated_before_its_backoff(world: World) -> None:
    world = world.varied(retry_backoff_sec=600.0)
    world.add("one.wav")
    world.faults({"kind": "status", "on": "create", "status": 403})

    (first,) = world.discover().runs

    assert not first.success
    assert not world.discover().runs


def test_a_run_that_was_created_and_never_queued_holds_nothing_for_ever(instance: dg.DagsterInstance) -> None:
    add(instance, dg.DagsterRunStatus.NOT_STARTED)

    assert look(instance).in_flight == {"b", "c"}
    assert look(instance, since=timedelta(seconds=-1)).in_flight == set()


def test_runs_that_ended_well_are_neither_under_way_nor_failed(instance: dg.DagsterInstance) -> None:
    add(instance, dg.DagsterRunStatus.SUCCESS)

    found = look(instance)
    assert (found.in_flight, found.failed) == (frozenset(), ())
    assert [run.keys for run in found.others] == [("b", "c")]


def test_what_the_platform_takes_only_later_is_not_asked_for_at_every_tick(world: World) -> None:
    world = world.varied(retry_backoff_sec=600.0)
    world.add("one.wav", "two.wav")
    world.faults({"kind": "status", "on": "create", "status": 429, "retry_after": 7200})

    (run,) = world.discover().runs

    assert run.success, "what is left for later is no failure"
    assert world.discover().runs == ()
    world.add("two.wav", first_seed=9)
    (again,) = world.discover().runs
    assert again.dagster_run.tags[RANGE_START_TAG] == again.dagster_run.tags[RANGE_END_TAG] == "two.wav"


def test_a_run_that_did_some_of_its_files_holds_the_others_back_from_nothing() -> None:
    at = datetime.now(UTC)
    some, none = EndedRun(("a", "b"), at), EndedRun(("b", "c"), at)

    assert in_vain([some, none], due=["b", "c", "d"]) == [none]


def test_a_busy_instance_hides_no_failed_run(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_LATEST_RUNS", 3)
    add(instance, dg.DagsterRunStatus.FAILURE)
    add(instance, dg.DagsterRunStatus.FAILURE, job=IMPLICIT_JOB, asset_selection=frozenset({_ASSET}))
    for _ in range(4):
        add(instance, dg.DagsterRunStatus.FAILURE, job="another")

    assert [run.keys for run in look(instance).failed] == [("b", "c"), ("b", "c")]


def test_runs_from_an_assets_page_are_of_the_implicit_job(world: World) -> None:
    world.add("one.wav")
    world.settle()

    run_id = world.materialize("one.wav").run_id

    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.job_name == IMPLICIT_JOB
