"""Runs that died without a word are ended and strand nothing; slow ones, and those of others, are let alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.plan.active import CONCURRENCY_CLAIM_MESSAGE_INTERVAL
from dagster._core.execution.plan.objects import StepSuccessData
from embed_pipeline.orchestration.dead_runs import DeadRuns, patience
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.pipeline import build_definitions
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.processes import Whereabouts, this_process, whereabouts
from embed_pipeline.orchestration.signs_of_life import process_of, signs_of_life
from embed_pipeline.orchestration.submission_lock import submission_lock

from embed_pipeline.orchestration import dead_runs
from embed_pipeline_tests.world import World

_NAMES, _POLICY = PipelineNames(), PipelinePolicy(dead_after_sec=300.0)
_STARTED, _CANCELING = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only signs of life tell")

_WORK = """
import sys
from pathlib import Path
import dagster as dg
from embed_pipeline_tests.world import World

class Elsewhere:
    base_url = sys.argv[3]

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    world = World(Path(sys.argv[2]), instance, Elsewhere())
    world.driver.discover() if sys.argv[4] == "create" else world.driver.collect_ready()
"""


def end(
    instance: dg.DagsterInstance, *, later: timedelta = timedelta(0), policy: PipelinePolicy = _POLICY
) -> list[str]:
    return DeadRuns(instance, _NAMES, policy, lambda _: None).end(now=datetime.now(UTC) + later)


def run_of(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = _STARTED,
    job: str = _NAMES.submit_job,
    process: str | None = None,
    step: str | None = "embedding_tasks",
    **values: Any,
) -> dg.DagsterRun:
    run_id = str(uuid4())
    tags = {_NAMES.process_tag: f"{run_id} {process}"} if process is not None else {}
    run = dg.DagsterRun(job_name=job, run_id=run_id, status=status, tags=tags, **values)
    instance.add_run(run)
    instance.report_engine_event("It begins.", run)
    if step is not None:
        log_step(instance, run, step, dg.DagsterEventType.STEP_START)
    return run


def log_step(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str, what: dg.DagsterEventType) -> None:
    data = {
        dg.DagsterEventType.STEP_SUCCESS: StepSuccessData(1.0),
        dg.DagsterEventType.STEP_WORKER_STARTING: EngineEventData(),
    }.get(what)
    event = DagsterEvent(what.value, run.job_name, step_key=step, event_specific_data=data)
    instance.report_dagster_event(event, run.run_id)


def process_that_ended() -> str:
    ask = "from embed_pipeline.orchestration.processes import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


@on_linux
def test_a_process_is_told_from_its_past_and_future_namesakes() -> None:
    own = this_process()
    place, pid, born = own.split("/")

    assert whereabouts(own) is Whereabouts.HERE
    assert whereabouts(process_that_ended()) is Whereabouts.GONE
    assert whereabouts(f"{place}/{pid}/{int(born) - 1}") is Whereabouts.GONE, "an earlier one had the same id"
    assert whereabouts(f"another-start.{place.partition('.')[2]}/{pid}/{born}") is Whereabouts.UNKNOWN
    assert whereabouts(f"{place.partition('.')[0]}.4711/{pid}/{born}") is Whereabouts.UNKNOWN, "in another container"
    assert whereabouts("") is Whereabouts.UNKNOWN


@on_linux
def test_a_process_that_was_killed_and_not_yet_buried_is_gone() -> None:
    ask = "from embed_pipeline.orchestration.processes import this_process; print(this_process(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    assert whereabouts(name) is Whereabouts.HERE
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert whereabouts(name) is Whereabouts.GONE
    process.communicate()


@on_linux
@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, _STARTED])
def test_a_run_whose_process_is_gone_is_ended_at_once_and_says_why(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run = run_of(instance, status, process=process_that_ended())

    assert end(instance) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    last = instance.all_logs(run.run_id)[-1]
    assert "taken for dead" in str(last.message)
    assert "process is gone" in str(last.message)


@on_linux
def test_a_run_whose_process_is_here_may_be_silent_for_days(instance: dg.DagsterInstance) -> None:
    run_of(instance, process=this_process())

    assert end(instance, later=timedelta(days=3)) == []


@on_linux
def test_a_run_that_is_executed_again_is_not_judged_by_the_process_of_the_first(instance: dg.DagsterInstance) -> None:
    first = run_of(instance, process=process_that_ended())
    again = dg.DagsterRun(job_name=_NAMES.submit_job, run_id=str(uuid4()), status=_STARTED, tags=first.tags)
    instance.add_run(again)

    assert end(instance) == [first.run_id]
    assert process_of(again, _NAMES) == ""


@pytest.mark.parametrize(("status", "becomes"), [(_STARTED, "FAILURE"), (_CANCELING, "CANCELED")])
def test_a_silent_run_of_another_machine_is_ended_when_its_time_is_over(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, becomes: str
) -> None:
    run = run_of(instance, status, process="another-machine.1/1/1")

    assert end(instance, later=timedelta(seconds=290)) == []
    instance.report_engine_event("Still at work.", run)
    assert end(instance, later=timedelta(seconds=310)) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status.value == becomes
    assert "no sign of life since" in str(instance.all_logs(run.run_id)[-1].message)


def test_a_run_that_waits_for_its_place_in_a_pool_has_longer(instance: dg.DagsterInstance) -> None:
    run = run_of(instance, step=None)

    assert end(instance, later=timedelta(seconds=590)) == []
    assert end(instance, later=timedelta(seconds=610)) == [run.run_id]
    assert timedelta(seconds=CONCURRENCY_CLAIM_MESSAGE_INTERVAL) == dead_runs._WAITING_STEPS_ARE_TOLD_EVERY


def test_a_launch_that_was_lost_is_ended(instance: dg.DagsterInstance) -> None:
    launching = [run_of(instance, status, step=None) for status in dead_runs._LAUNCHING]

    assert end(instance, later=timedelta(minutes=50)) == []
    assert set(end(instance, later=timedelta(minutes=61))) == {run.run_id for run in launching}


def test_a_run_with_a_step_of_others_under_way_is_let_alone(instance: dg.DagsterInstance) -> None:
    of_both = frozenset({_NAMES.embedding_tasks, dg.AssetKey("theirs")})
    run = run_of(instance, job="__ASSET_JOB", asset_selection=of_both, process=process_that_ended())
    log_step(instance, run, "embedding_tasks", dg.DagsterEventType.STEP_SUCCESS)
    log_step(instance, run, "theirs", dg.DagsterEventType.STEP_START)
    run_of(instance, job="theirs", step="theirs")

    assert end(instance, later=timedelta(days=3)) == []
    log_step(instance, run, "theirs", dg.DagsterEventType.STEP_SUCCESS)
    assert end(instance, later=timedelta(days=3)) == [run.run_id]


@pytest.mark.parametrize("waits_for", ["STEP_WORKER_STARTING", "STEP_UP_FOR_RETRY"])
def test_a_step_of_others_that_waits_for_a_machine_or_another_attempt_may_be_silent(
    instance: dg.DagsterInstance, waits_for: str
) -> None:
    of_both = frozenset({_NAMES.embedding_tasks, dg.AssetKey("theirs")})
    run = run_of(instance, job="__ASSET_JOB", asset_selection=of_both, process="another-machine.1/1/1")
    log_step(instance, run, "embedding_tasks", dg.DagsterEventType.STEP_SUCCESS)
    if waits_for == "STEP_UP_FOR_RETRY":
        log_step(instance, run, "theirs", dg.DagsterEventType.STEP_START)
    log_step(instance, run, "theirs", dg.DagsterEventType(waits_for))

    assert end(instance, later=timedelta(hours=5)) == []


def test_a_job_of_others_that_bears_a_name_of_ours_is_let_alone(instance: dg.DagsterInstance) -> None:
    run_of(instance, job=_NAMES.collect_job, step="theirs")

    assert end(instance, later=timedelta(days=3)) == []


def test_every_step_of_the_pipelines_jobs_is_known_as_its_own(world: World) -> None:
    repository = build_definitions(world.blueprint).get_repository_def()
    names = world.blueprint.names
    jobs = [repository.get_job(name) for name in names.jobs]

    assert {node.name for job in jobs for node in job.all_node_defs if isinstance(node, dg.OpDefinition)} == names.steps


def test_a_step_process_that_died_is_not_the_whole_run(instance: dg.DagsterInstance) -> None:
    run_of(
        instance,
        job="__ASSET_JOB",
        asset_selection=frozenset({_NAMES.embedding_tasks}),
        process=process_that_ended(),
    )

    assert end(instance) == [], "the run's own process tells of it, or falls silent"


@pytest.mark.parametrize(
    ("monitoring", "health", "status", "watched"),
    [
        ({"enabled": True}, True, _STARTED, True),
        ({"enabled": True}, False, _STARTED, False),
        ({"enabled": False}, True, _STARTED, False),
        ({"enabled": True}, False, dg.DagsterRunStatus.STARTING, True),
        ({"enabled": True, "start_timeout_seconds": 0}, True, dg.DagsterRunStatus.STARTING, False),
        ({"enabled": True}, False, _CANCELING, True),
    ],
)
def test_what_dagsters_monitoring_notices_by_itself_is_left_to_it(
    monitoring: dict[str, Any],
    health: bool,
    status: dg.DagsterRunStatus,
    watched: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dg.DagsterInstance.ephemeral(settings={"run_monitoring": monitoring}) as instance:
        launcher = type(instance.run_launcher)
        monkeypatch.setattr(launcher, "supports_check_run_worker_health", property(lambda _: health))
        run = run_of(instance, status, process="another-machine.1/1/1")

        assert end(instance, later=timedelta(days=1)) == ([] if watched else [run.run_id])


def test_patience_grows_with_what_may_be_silent() -> None:
    own, dead_after = {"ours"}, timedelta(minutes=5)

    assert patience(_STARTED, {"ours": True}, own, dead_after=dead_after) == dead_after
    assert patience(_STARTED, {"ours": True, "theirs": True}, own, dead_after=dead_after) is None
    assert patience(_STARTED, {"theirs": False}, own, dead_after=dead_after) is None
    waiting = patience(_STARTED, {}, own, dead_after=dead_after)
    assert waiting is not None
    assert waiting > dead_after
    launching = patience(dg.DagsterRunStatus.STARTING, {}, own, dead_after=dead_after)
    assert launching is not None
    assert launching > waiting
    assert patience(_STARTED, {"ours": False}, own, dead_after=dead_after) == launching


def test_a_step_that_only_waits_shows_signs_of_life(stored_instance: dg.DagsterInstance) -> None:
    policy = PipelinePolicy(dead_after_sec=0.5)
    run = run_of(stored_instance)
    with signs_of_life(stored_instance, run, _NAMES, policy):
        time.sleep(1.0)
        # Of another machine, it would have to be believed by its signs alone.
        stored_instance.add_run_tags(run.run_id, {_NAMES.process_tag: ""})
        assert end(stored_instance, policy=policy) == []
    signs = [entry for entry in stored_instance.all_logs(run.run_id) if "Still at work" in (entry.message or "")]
    assert len(signs) >= 3
    time.sleep(0.6)
    assert end(stored_instance, policy=policy) == [run.run_id]


@on_linux
def test_a_run_that_ends_while_it_is_looked_at_is_not_ended_again(instance: dg.DagsterInstance) -> None:
    run = run_of(instance, process=process_that_ended())
    seen = instance.get_run_by_id(run.run_id)
    assert seen is not None
    instance.report_dagster_event(DagsterEvent("PIPELINE_SUCCESS", run.job_name), run.run_id)

    assert DeadRuns(instance, _NAMES, _POLICY, lambda _: None).end_if_dead(seen, now=datetime.now(UTC))
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.SUCCESS


@on_linux
def test_whoever_waits_for_the_lock_ends_a_dead_holder(stored_instance: dg.DagsterInstance) -> None:
    holder, own = run_of(stored_instance, process=process_that_ended()), run_of(stored_instance)
    assert stored_instance.event_log_storage.supports_global_concurrency_limits
    stored_instance.event_log_storage.set_concurrency_slots("key", 1)
    assert stored_instance.event_log_storage.claim_concurrency_slot("key", holder.run_id, "key").is_claimed
    dead = DeadRuns(stored_instance, _NAMES, _POLICY, lambda _: None)

    with submission_lock(
        stored_instance,
        "key",
        own.run_id,
        longest_wait_sec=5.0,
        has_ended=lambda run: dead.end_if_dead(run, now=datetime.now(UTC)),
    ):
        ended = stored_instance.get_run_by_id(holder.run_id)
        assert ended is not None
        assert ended.is_finished


def wait_for(what: Callable[[], object], within_sec: float = 60.0) -> None:
    deadline = time.monotonic() + within_sec
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@on_linux
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("endpoint", ["create", "retrieve"])
def test_a_process_that_is_killed_with_all_it_did_strands_no_file(
    tmp_path: Path, stored_instance: dg.DagsterInstance, world: World, endpoint: str
) -> None:
    world = World(tmp_path, stored_instance, world.emulator)
    world.add("a.wav", "b.wav")
    if endpoint == "retrieve":
        world.discover()
        world.discover()
        world.finish_computing()
    world.faults({"kind": "latency", "on": endpoint, "seconds": 6.0})
    home = stored_instance.root_directory
    process = subprocess.Popen([sys.executable, "-c", _WORK, home, str(tmp_path), world.emulator.base_url, endpoint])
    job = _NAMES.submit_job if endpoint == "create" else _NAMES.collect_job
    wait_for(lambda: stored_instance.get_runs(dg.RunsFilter(job_name=job, statuses=[_STARTED])))
    # Now it has a moment to reach the platform, whose answer it will not live to see.
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    world.faults()

    assert set(world.settle().values()) == {"embedded"}
    assert world.created() == {"a.wav": 1, "b.wav": 1}
    assert len(stored_instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))) == 1


def test_every_job_and_asset_of_a_pipeline_is_known_as_its_own(world: World) -> None:
    world.add("a.wav")
    world.settle()
    repository = world.driver._repository

    assert set(repository.job_names) - {"__ASSET_JOB"} == _NAMES.jobs
    assert set(repository.asset_graph.materializable_asset_keys) == _NAMES.assets
    runs = world.instance.get_runs()
    assert runs
    assert all(_NAMES.process_tag in run.tags for run in runs)
