"""Runs that died without a word are ended; those at work, and those of others, are let alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.execution.plan.active import CONCURRENCY_CLAIM_MESSAGE_INTERVAL

from embed_pipeline.ledger import Ledger
from embed_pipeline.ledger.runs import Runs
from embed_pipeline.orchestration import runs
from embed_pipeline.orchestration.blueprint import POOL, PipelineNames
from embed_pipeline.orchestration.runs import end_stale_runs
from embed_pipeline_tests.world import World

_NAMES = PipelineNames()
_STARTED, _CANCELING = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING


class Clock:
    """Seconds since 1970 by the ledger's clock, and by the one that events are compared with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = 0.0
        self.start = runs.time.time()
        monkeypatch.setattr(runs.time, "time", lambda: self.start + self.moved)

    def __call__(self) -> float:
        return self.start + self.moved


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=clock) as ledger:
        yield ledger


def run_of(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = _STARTED,
    job: str = _NAMES.submit_job,
    assets: frozenset[dg.AssetKey] | None = None,
) -> str:
    run = dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=status, asset_selection=assets)
    instance.add_run(run)
    instance.report_engine_event("It begins.", run)
    return run.run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


@pytest.mark.parametrize(("status", "becomes"), [(_STARTED, "FAILURE"), (_CANCELING, "CANCELED")])
def test_run_whose_lease_has_lapsed_is_ended_and_says_why(
    instance: dg.DagsterInstance, ledger: Ledger, clock: Clock, status: dg.DagsterRunStatus, becomes: str
) -> None:
    run_id = run_of(instance, status)
    ledger.runs.renew("", run_id, lease_sec=45.0)
    clock.moved = 44.0
    assert end_stale_runs(instance, _NAMES, ledger) == []
    clock.moved = 45.0

    assert end_stale_runs(instance, _NAMES, ledger) == [run_id]

    assert status_of(instance, run_id) == becomes
    assert any("process gone" in str(entry.message) for entry in instance.all_logs(run_id))
    assert end_stale_runs(instance, _NAMES, ledger) == []


def test_run_that_holds_its_lease_may_be_silent_for_days(
    instance: dg.DagsterInstance, ledger: Ledger, clock: Clock
) -> None:
    run_id = run_of(instance)
    for _ in range(5):
        clock.moved += 86400.0
        ledger.runs.renew("", run_id, lease_sec=45.0)
        assert end_stale_runs(instance, _NAMES, ledger) == []


def test_run_that_died_before_its_first_step_or_after_its_last_is_ended_once_it_is_silent(
    instance: dg.DagsterInstance, ledger: Ledger, clock: Clock
) -> None:
    before, after = run_of(instance), run_of(instance)
    ledger.runs.renew("", after, lease_sec=45.0)
    ledger.runs.end(after)
    clock.moved = 55.0
    assert end_stale_runs(instance, _NAMES, ledger) == []
    clock.moved = 65.0

    assert set(end_stale_runs(instance, _NAMES, ledger)) == {before, after}


def test_run_that_waits_for_the_pool_has_longer(
    stored_instance: dg.DagsterInstance, ledger: Ledger, clock: Clock
) -> None:
    storage, run_id = stored_instance.event_log_storage, run_of(stored_instance)
    storage.set_concurrency_slots(POOL, 1)
    storage.claim_concurrency_slot(POOL, "another run", "its step")
    assert not storage.claim_concurrency_slot(POOL, run_id, "embedding_tasks").is_claimed
    clock.moved = 590.0
    assert end_stale_runs(stored_instance, _NAMES, ledger) == []
    clock.moved = 610.0

    assert end_stale_runs(stored_instance, _NAMES, ledger) == [run_id]
    assert runs._WAITING_SEC >= 2 * CONCURRENCY_CLAIM_MESSAGE_INTERVAL


def test_runs_of_others_are_let_alone(instance: dg.DagsterInstance, ledger: Ledger, clock: Clock) -> None:
    theirs = dg.AssetKey("theirs")
    run_of(instance, job="theirs")
    run_of(instance, job="__ASSET_JOB", assets=frozenset({_NAMES.embedding_tasks, theirs}))
    ours = run_of(instance, job="__ASSET_JOB", assets=frozenset({_NAMES.embedding_tasks, _NAMES.segment_embeddings}))
    clock.moved = 3 * 86400.0

    assert end_stale_runs(instance, _NAMES, ledger) == [ours]


def test_what_dagsters_monitoring_looks_after_is_left_to_it(
    ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral(settings={"run_monitoring": {"enabled": True}}) as instance:
        run_id = run_of(instance)
        clock.moved = 86400.0
        launcher = type(instance.run_launcher)
        monkeypatch.setattr(launcher, "supports_check_run_worker_health", property(lambda _: True))
        assert end_stale_runs(instance, _NAMES, ledger) == []
        monkeypatch.setattr(launcher, "supports_check_run_worker_health", property(lambda _: False))

        assert end_stale_runs(instance, _NAMES, ledger) == [run_id]


def test_each_step_holds_the_lease_of_its_run_while_it_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[str, bool]] = []
    really_end = Runs.end

    def end(self: Runs, run_id: str) -> None:
        held.append((run_id, self.leases("")[run_id]))
        really_end(self, run_id)

    monkeypatch.setattr(Runs, "end", end)
    world.add("a.wav")
    assert set(world.settle().values()) == {"embedded"}
    names = world.blueprint.names
    assert world.driver.run(names.refresh_job, {}).success

    finished = {run.run_id: run.job_name for run in world.instance.get_runs()}
    assert {finished[run_id] for run_id, is_live in held if is_live} >= {
        names.submit_job, names.collect_job, names.refresh_job,
    }  # fmt: skip
    with world.pipeline() as pipeline:
        assert pipeline.ledger.runs.leases("") == {}
