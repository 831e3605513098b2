"""Run processes: one that is killed strands no file, and two at once pay once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline_tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.server]

_WORK = """
import sys
from pathlib import Path
import dagster as dg
from embed_pipeline_tests.world import World

class Elsewhere:
    base_url = sys.argv[3]

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    world = World(Path(sys.argv[2]), instance, Elsewhere())
    print("ready", flush=True)
    sys.stdin.readline()
    if sys.argv[4] == "collect":
        world.driver.collect_ready()
    else:
        sys.exit(0 if world.submit(*sys.argv[5:]).success else 1)
"""


def start(world: World, *work: str) -> subprocess.Popen[str]:
    home = world.instance.root_directory
    process = subprocess.Popen(
        [sys.executable, "-c", _WORK, home, str(world.root), world.emulator.base_url, *work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def wait_for(what: Callable[[], object], within_sec: float = 60.0) -> None:
    deadline = time.monotonic() + within_sec
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path, stored_instance: dg.DagsterInstance, world: World) -> World:
    return World(tmp_path, stored_instance, world.emulator)


@pytest.mark.parametrize("endpoint", ["create", "retrieve"])
def test_a_process_that_is_killed_with_all_it_did_strands_no_file(world: World, endpoint: str) -> None:
    manual = world.varied(submit_automatically=False)
    world.add("a.wav", "b.wav")
    manual.discover()
    if endpoint == "retrieve":
        assert manual.submit("a.wav", "b.wav").success
        world.finish_computing()
    world.faults({"kind": "latency", "on": endpoint, "seconds": 3.0})
    process = start(world, "collect" if endpoint == "retrieve" else "submit", "a.wav", "b.wav")
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    # The requests are on their way, and it will not live to see the answers.
    wait_for(lambda: world.emulator.platform.faults.to_json()["faults"][0]["happened"])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    world.finish_computing()
    world.faults()
    assert len(world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))) == 1

    world.let_pass(60.0)
    world.settle()
    world.let_pass(600.0)
    world.collect()

    assert world.settle() == {"a.wav": "embedded", "b.wav": "embedded"}
    assert world.created() == {"a.wav": 1, "b.wav": 1}
    assert not world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    (dead,) = world.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert any("process gone" in str(entry.dagster_event) for entry in world.instance.all_logs(dead.run_id))


def test_two_processes_that_submit_the_same_files_at_once_pay_once(world: World) -> None:
    manual = world.varied(submit_automatically=False)
    names = [f"{number}.wav" for number in range(8)]
    world.add(*names)
    manual.discover()
    # Each request takes a while, so that the two overlap.
    world.faults({"kind": "latency", "on": "create", "seconds": 0.2})
    processes = [start(world, "submit", names[0], names[-1]) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)

    assert [process.returncode for process in processes] == [0, 0]
    assert world.created() == dict.fromkeys(names, 1)
    assert set(world.settle().values()) == {"embedded"}
