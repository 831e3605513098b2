"""The system that the crash test kills: platform, code server, daemon and runs, each a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from embed_pipeline import (
    Blueprint,
    EmbedClientResource,
    EmbeddingLedgerResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
    PipelinePolicy,
)

_MARK = "CRASH_TEST_ROOT"
_DEFINITIONS = """
import os
from crash_stack import crash_blueprint
from embed_pipeline import build_definitions
defs = build_definitions(crash_blueprint(os.environ))
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
_STORAGE = """
storage:
  postgres:
    postgres_url:
      env: CRASH_TEST_STORAGE
"""
_ANSWERS_WITHIN_SEC = 60.0
# What takes a moment before it has its effect and another before its answer leaves time to die in.
_FAULTS = [
    {"kind": "latency", "on": "create", "seconds": 0.15, "distribution": "exponential"},
    {"kind": "latency", "on": "retrieve", "seconds": 0.1, "distribution": "exponential"},
    {"kind": "latency", "on": "asset_create", "seconds": 0.15, "distribution": "exponential"},
    {"kind": "drop", "on": "asset_create", "when": "after", "probability": 0.05},
]


def crash_blueprint(environment: Any) -> Blueprint:
    """Return the pipeline that a crash test's environment describes.

    Args:
        environment: The variables of a process that `Stack` started.
    """
    root = environment[_MARK]
    return Blueprint(
        client=EmbedClientResource(
            base_url=environment["CRASH_TEST_URL"], concurrency=2, delivery=environment["CRASH_TEST_DELIVERY"]
        ),
        library=MediaLibraryResource(location=f"{root}/media", settle_sec=0.0, cache=f"{root}/fingerprints.sqlite"),
        store=EmbeddingStoreResource(root=f"{root}/embeddings"),
        ledger=EmbeddingLedgerResource(url=environment["CRASH_TEST_LEDGER"]),
        policy=PipelinePolicy(**json.loads(environment["CRASH_TEST_POLICY"])),
    )


@dataclass
class Service:
    """One process that is started again after it was killed.

    Args:
        name: What it is called.
        command: Its command line.
        log: The file that takes its output.
        environment: Its variables.
    """

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    start_at: float | None = None

    def start(self) -> None:
        """Start the process."""
        self.start_at = None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def kill(self, pause_sec: float = 0.0) -> None:
        """Kill the process alone, and start it again after a pause."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.start_at = time.monotonic() + pause_sec

    def start_if_due(self) -> None:
        """Start the process again where its pause is over."""
        if self.start_at is not None and time.monotonic() >= self.start_at:
            self.start()


@dataclass
class Stack:
    """Platform, code server, daemon and the run processes below.

    Args:
        root: An empty folder that holds all of it.
        policy: Fields of the pipeline's policy.
        ledger_url: The ledger's URL; empty for SQLite below the dataset.
        storage_url: The URL of Dagster's own storage on PostgreSQL; empty for SQLite.
        uploads: Whether files reach the platform by upload.
    """

    root: Path
    policy: dict[str, Any]
    ledger_url: str = ""
    storage_url: str = ""
    uploads: bool = False
    pids: dict[str, int] = field(default_factory=dict)
    known_runs: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(_INSTANCE + (_STORAGE if self.storage_url else ""))
        (self.root / "crash_definitions.py").write_text(_DEFINITIONS)
        (self.root / "faults.json").write_text(json.dumps(_FAULTS))
        platform_port, code_port = _free_ports(2)
        self.origin = f"http://127.0.0.1:{platform_port}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH", "")])]
            ),
            "DAGSTER_HOME": str(self.home),
            _MARK: str(self.root),
            "CRASH_TEST_URL": f"{self.origin}/v1.3",
            "CRASH_TEST_LEDGER": self.ledger_url,
            "CRASH_TEST_STORAGE": self.storage_url,
            "CRASH_TEST_DELIVERY": "upload" if self.uploads else "auto",
            "CRASH_TEST_POLICY": json.dumps(self.policy),
        }
        server = {"host": "localhost", "port": code_port, "location_name": "crash"}
        (self.root / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
        self.platform = self._service(
            "platform",
            *("embed_pipeline.emulator", "--port", str(platform_port), "--state", str(self.platform_state)),
            *("--media-root", str(self.root / "media"), "--engine", "instant", "--workers", "1"),
            *("--faults", str(self.root / "faults.json")),
        )
        self.code_server = self._service(
            "code-server",
            *("dagster", "api", "grpc", "--port", str(code_port), "--host", "localhost", "--location-name", "crash"),
            *("--python-file", str(self.root / "crash_definitions.py")),
        )
        self.daemon = self._service("daemon", "dagster._daemon", "run", "-w", str(self.root / "workspace.yaml"))
        self.services = (self.platform, self.code_server, self.daemon)

    @property
    def home(self) -> Path:
        """The folder of the Dagster instance."""
        return self.root / "dagster"

    @property
    def platform_state(self) -> Path:
        """The folder of the platform's tasks, results and uploads."""
        return self.root / "platform"

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the Dagster instance."""
        os.environ["CRASH_TEST_STORAGE"] = self.storage_url
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            yield instance

    def start(self) -> None:
        """Start all services; the daemon last, because it loads its code locations once a minute."""
        self.platform.start()
        self.code_server.start()
        self._wait_for_code_server()
        self.daemon.start()

    def kill_everything(self) -> None:
        """End all processes as a machine that loses power does, and start the services again."""
        runs = self.run_processes()
        # Those that would tell of a run's death go first.
        for pid in sorted(_own_processes(str(self.root)), key=lambda pid: pid in runs):
            send(pid, signal.SIGKILL)
        for service in self.services:
            service.kill()
        self.start()

    def start_what_is_due(self) -> None:
        """Start the services whose pause is over."""
        for service in self.services:
            service.start_if_due()

    def stop(self) -> None:
        """End everything that was started, whoever started it."""
        for pid in _own_processes(str(self.root)):
            send(pid, signal.SIGKILL)
        for service in self.services:
            if service.process is not None:
                service.process.wait()

    def run_processes(self) -> set[int]:
        """Return the processes that execute runs, those included whose code server was killed."""
        own = set(_own_processes(str(self.root)))
        for pid in own - self.known_runs:
            if "spawn_main" in _read(pid, "cmdline") and "grpc" in _read(_parent(pid), "cmdline"):
                self.known_runs.add(pid)
        self.known_runs &= own
        return set(self.known_runs)

    def executing(self, instance: dg.DagsterInstance) -> set[int]:
        """Return the processes of runs that have begun to execute."""
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            if run.run_id not in self.pids:
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
                    words = f"{entry.user_message or ''} {entry.get_dagster_event().message or ''}"
                    if found := re.search(r"\(pid: (\d+)\)", words):
                        self.pids[run.run_id] = int(found[1])
        return set(self.pids.values())

    def tasks_created(self) -> int | None:
        """Return how many tasks the platform has created; None while it is down."""
        try:
            summary = httpx.get(f"{self.origin}/_emulator/journal/summary", timeout=2.0)
        except httpx.HTTPError:
            return None
        return int(summary.json()["tasks_created"])

    def _service(self, name: str, module: str, *arguments: str) -> Service:
        command = [sys.executable, "-m", module, *arguments]
        return Service(name, command, self.root / f"{name}.log", self.environment)

    def _wait_for_code_server(self) -> None:
        port = int(self.code_server.command[self.code_server.command.index("--port") + 1])
        deadline = time.monotonic() + _ANSWERS_WITHIN_SEC
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("localhost", port), timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(f"The code server does not answer: {self.code_server.log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _own_processes(root: str) -> list[int]:
    mark = f"{_MARK}={root}\n"
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
    """Send a signal; return whether the process was there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True
