"""The real thing: daemon, code server and run processes, with nobody calling anything by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from embed_pipeline.commands.context import ProjectDir
from embed_pipeline.emulator import Emulator
from embed_pipeline_tests.world import World

_PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(400)]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of the local development stack, as its users have it."""
    home = ProjectDir(tmp_path, str(tmp_path / "media")).dagster_home()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def daemon(tmp_path: Path, instance: dg.DagsterInstance, emulator: Emulator) -> Iterator[subprocess.Popen[bytes]]:
    log = (tmp_path / "daemon.log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster._daemon", "run"),
            *("-m", "embed_pipeline_tests.behaviour.daemon_definitions", "-d", str(_PROJECT)),
        ],
        env={
            **os.environ,
            "DAGSTER_HOME": instance.root_directory,
            "TEST_PIPELINE_ROOT": str(tmp_path),
            "TEST_PIPELINE_URL": emulator.base_url,
        },
        cwd=_PROJECT,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    yield process
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    log.close()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], within_sec: float = 150) -> bool:
    deadline = time.monotonic() + within_sec
    while time.monotonic() < deadline:
        if what():
            return True
        assert process.poll() is None, "the daemon has ended"
        time.sleep(0.5)
    return False


def backfill(world: World, backfill_id: str) -> None:
    """Ask for all partitions of both assets, as the UI does for "materialize all"."""
    pipeline = world.blueprint.names
    world.instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id=backfill_id,
            asset_graph=world.driver._repository.asset_graph,
            partition_names=None,
            asset_selection=[pipeline.embedding_tasks, pipeline.segment_embeddings],
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=world.instance,
            all_partitions=True,
            title=None,
            description=None,
            run_config=None,
        )
    )


def test_a_library_is_embedded_by_itself_and_a_backfill_of_everything_completes(
    world: World, daemon: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    names = [f"{number}.wav" for number in range(6)]
    world.add(*names)

    done = wait_for(lambda: list(world.states().values()) == ["embedded"] * len(names), daemon)

    assert done, (world.states(), (tmp_path / "daemon.log").read_text()[-3000:])
    assert world.created() == dict.fromkeys(names, 1)

    backfill(world, "all")

    def ended() -> bool:
        found = world.instance.get_backfill("all")
        return found is not None and found.status is not BulkActionStatus.REQUESTED

    assert wait_for(ended, daemon)
    found = world.instance.get_backfill("all")
    assert found is not None
    assert found.status is BulkActionStatus.COMPLETED_SUCCESS, found.error
    assert world.created() == dict.fromkeys(names, 1), "every file had its task already"
    assert set(world.states().values()) == {"embedded"}


def test_a_backfill_over_one_bad_file_embeds_all_others(world: World, daemon: subprocess.Popen[bytes]) -> None:
    (world.media / "bad.wav").write_bytes(b"no media")
    names = [f"{number}.wav" for number in range(5)]
    world.add(*names)

    def settled() -> bool:
        states = world.states()
        return len(states) == 6 and all(states[name] == "embedded" for name in names) and states["bad.wav"] == "failed"

    assert wait_for(settled, daemon), world.states()
    backfill(world, "all")

    def ended() -> bool:
        found = world.instance.get_backfill("all")
        return found is not None and found.status is not BulkActionStatus.REQUESTED

    assert wait_for(ended, daemon)
    assert world.created() == dict.fromkeys(names, 1)
    pipeline = world.blueprint.names
    for asset in (pipeline.embedding_tasks, pipeline.segment_embeddings):
        status = world.instance.get_status_by_partition(asset, [*names, "bad.wav"], world.blueprint.partitions_def)
        assert status is not None
        assert {name: str(status[name]) for name in names} == dict.fromkeys(names, "AssetPartitionStatus.MATERIALIZED")
        assert str(status["bad.wav"]) == "AssetPartitionStatus.FAILED"
