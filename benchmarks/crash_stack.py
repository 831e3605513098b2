"""The system that the crash test kills: a daemon, its code server and its runs, each a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

_DEFINITIONS = """
import os
from pathlib import Path
from embed_pipeline.orchestration import processes
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.pipeline import build_definitions
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource

root = os.environ["CRASH_TEST_ROOT"]
if os.environ.get("CRASH_TEST_NAMELESS"):
    processes._PROC = Path("/nowhere")
defs = build_definitions(
    Blueprint(
        client=EmbedClientResource(base_url=os.environ["CRASH_TEST_URL"], concurrency=2),
        library=MediaLibraryResource(location=f"{root}/media", settle_sec=0.0, cache=f"{root}/fingerprints.sqlite"),
        store=EmbeddingStoreResource(root=f"{root}/embeddings"),
        policy=PipelinePolicy(
            submit_automatically=True,
            partitions_per_run=6,
            runs_per_tick=4,
            sensor_interval_sec=5,
            collect_wait_sec=0.0,
            retry_backoff_sec=0.0,
            dead_after_sec=10.0,
        ),
    )
)
"""
_INSTANCE = """
telemetry:
  enabled: false
run_monitoring:
  enabled: true
  poll_interval_seconds: 2
  start_timeout_seconds: 45
  free_slots_after_run_end_seconds: 1
run_queue:
  dequeue_interval_seconds: 1
concurrency:
  runs:
    max_concurrent_runs: 3
  pools:
    granularity: op
    default_limit: 4
"""


@dataclass
class Stack:
    """The daemon with its code server, and the run processes below.

    Args:
        root: An empty folder that holds all of it.
        platform_url: The emulator's base URL.
    """

    root: Path
    platform_url: str
    process: subprocess.Popen[bytes] | None = None
    pids: dict[str, int] = field(default_factory=dict)
    nameless: bool = False

    def __post_init__(self) -> None:
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(_INSTANCE)
        (self.root / "crash_definitions.py").write_text(_DEFINITIONS)

    @property
    def home(self) -> Path:
        """The folder of the Dagster instance."""
        return self.root / "dagster"

    def start(self) -> None:
        """Start the daemon; its code server and the runs are its children."""
        log = (self.root / "daemon.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-f", str(self.root / "crash_definitions.py")],
            env={
                **os.environ,
                "DAGSTER_HOME": str(self.home),
                "CRASH_TEST_ROOT": str(self.root),
                "CRASH_TEST_URL": self.platform_url,
                **({"CRASH_TEST_NAMELESS": "1"} if self.nameless else {}),
            },
            stdout=log,
            stderr=log,
            cwd=self.root,
            start_new_session=True,
        )

    def kill_daemon(self) -> None:
        """End the daemon alone; its code server and runs notice, or not."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_everything(self) -> int:
        """End all processes as a machine that loses power does; how many of them executed runs."""
        assert self.process is not None
        runs = self.run_processes()
        # Those that would tell of a run's death go first.
        for pid in sorted(_own_processes(str(self.root)), key=lambda pid: pid in runs):
            send(pid, signal.SIGKILL)
        self.process.wait()
        self.nameless = not self.nameless
        return len(runs)

    def stop(self) -> None:
        """End everything that was started, whichever daemon started it."""
        for pid in _own_processes(str(self.root)):
            send(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def run_processes(self) -> set[int]:
        """The processes that execute runs."""
        found = set()
        for pid in _own_processes(str(self.root)):
            command = _read(pid, "cmdline")
            if "spawn_main" in command and "api" in _read(_parent(pid), "cmdline"):
                found.add(pid)
        return found

    def executing(self, instance: dg.DagsterInstance) -> set[int]:
        """The processes of runs that have begun to execute."""
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            if run.run_id not in self.pids:
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
                    found = re.search(r"Executing steps in process \(pid: (\d+)\)", entry.user_message or "")
                    if found or (found := re.search(r"\(pid: (\d+)\)", entry.get_dagster_event().message or "")):
                        self.pids[run.run_id] = int(found[1])
        return set(self.pids.values())


def _own_processes(root: str) -> list[int]:
    mark = f"CRASH_TEST_ROOT={root}"
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _read(int(entry.name), "environ")
    ]


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().replace(b"\0", b"\n").decode(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    stat = _read(pid, "stat").rpartition(")")[2].split()
    return int(stat[1]) if len(stat) > 1 else 0


def send(pid: int, what: signal.Signals) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True
