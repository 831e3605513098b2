"""One process at a time creates tasks, and one that was killed stands in nobody's way."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline.orchestration.submission_lock import SubmissionBusyError, submission_lock
from embed_pipeline_tests.world import World

_SUBMIT = """
import sys
from pathlib import Path
import dagster as dg
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline_tests.world import World

class Elsewhere:
    base_url = sys.argv[3]

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    world = World(Path(sys.argv[2]), instance, Elsewhere())
    print("ready", flush=True)
    sys.stdin.readline()
    sys.exit(0 if world.submit(*sys.argv[4:]).success else 1)
"""
_HOLD = """
import sys, time
import dagster as dg
from embed_pipeline.orchestration.submission_lock import submission_lock

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    with submission_lock(instance, "key", sys.argv[2], longest_wait_sec=5):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def instance(stored_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """The lock is for processes that share an instance."""
    return stored_instance


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_of(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> str:
    run = dg.DagsterRun(job_name="any", run_id=str(uuid.uuid4()), status=status)
    instance.add_run(run)
    return run.run_id


@pytest.mark.slow
@pytest.mark.server
def test_two_processes_that_submit_the_same_files_at_once_pay_once(world: World) -> None:
    world = world.varied(submit_automatically=False)
    names = [f"{number}.wav" for number in range(8)]
    world.add(*names)
    world.discover()
    # Each create takes a while, so that the two would overlap if they could.
    world.faults({"kind": "latency", "on": "create", "seconds": 0.2})
    home = world.instance.root_directory
    processes = [start(_SUBMIT, home, str(world.root), world.emulator.base_url, names[0], names[-1]) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in processes:
        process.communicate("go\n", timeout=120)

    assert [process.returncode for process in processes] == [0, 0]
    assert world.created() == dict.fromkeys(names, 1)


@pytest.mark.slow
@pytest.mark.server
def test_a_holder_that_was_killed_does_not_block_once_its_run_has_ended(instance: dg.DagsterInstance) -> None:
    dead, own = run_of(instance), run_of(instance)
    process = start(_HOLD, instance.root_directory, dead)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    process.send_signal(signal.SIGKILL)
    process.wait()

    with (
        pytest.raises(SubmissionBusyError, match=f"run {dead}"),
        submission_lock(instance, "key", own, longest_wait_sec=0.0),
    ):
        pass
    instance.report_run_failed(instance.get_run_by_id(dead))
    with submission_lock(instance, "key", own, longest_wait_sec=5.0):
        pass


def test_those_who_wait_get_it_one_after_the_other(instance: dg.DagsterInstance) -> None:
    inside, most, done = 0, 0, []
    guard = threading.Lock()

    def hold(run_id: str) -> None:
        nonlocal inside, most
        with submission_lock(instance, "key", run_id, longest_wait_sec=60.0):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.05)
            with guard:
                inside -= 1
                done.append(run_id)

    runs = [run_of(instance) for _ in range(4)]
    threads = [threading.Thread(target=hold, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert most == 1
    assert sorted(done) == sorted(runs)


def test_one_that_waited_and_died_does_not_stand_before_others(instance: dg.DagsterInstance) -> None:
    holder, waiting, own = (run_of(instance) for _ in range(3))
    storage = instance.event_log_storage
    with submission_lock(instance, "key", holder, longest_wait_sec=1.0):
        assert not storage.claim_concurrency_slot("key", waiting, step_key="key").is_claimed
    instance.report_run_failed(instance.get_run_by_id(waiting))

    with submission_lock(instance, "key", own, longest_wait_sec=5.0):
        pass


def test_who_has_the_turn_is_named_and_not_who_waits_for_it(instance: dg.DagsterInstance) -> None:
    holder, *waiting = (run_of(instance) for _ in range(6))
    storage, told = instance.event_log_storage, []
    with submission_lock(instance, "key", holder, longest_wait_sec=1.0):
        for one in waiting:
            assert not storage.claim_concurrency_slot("key", one, step_key="key").is_claimed
        with (
            pytest.raises(SubmissionBusyError, match=f"run {holder}"),
            submission_lock(instance, "key", run_of(instance), longest_wait_sec=0.3, on_wait=told.append),
        ):
            pass

    assert [holder in words for words in told] == [True]


def test_whether_others_live_is_judged_at_once_and_then_now_and_then(instance: dg.DagsterInstance) -> None:
    holder, judged = run_of(instance), []

    def lives(run: dg.DagsterRun) -> bool:
        judged.append(run.run_id)
        return False

    with (
        submission_lock(instance, "key", holder, longest_wait_sec=1.0),
        pytest.raises(SubmissionBusyError),
        submission_lock(instance, "key", run_of(instance), longest_wait_sec=1.0, has_ended=lives),
    ):
        pass

    assert judged == [holder]


def test_another_pipelines_lock_is_another(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with (
        submission_lock(instance, "one", run_of(instance), longest_wait_sec=0.0),
        submission_lock(instance, "two", run_of(instance), longest_wait_sec=0.0),
    ):
        pass


def test_a_limit_that_lets_nobody_in_is_told_and_not_waited_for_for_ever(instance: dg.DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("closed", 0)
    with (
        pytest.raises(SubmissionBusyError, match="closed must have the limit 1"),
        submission_lock(instance, "closed", "some-run", longest_wait_sec=0.2),
    ):
        pass
