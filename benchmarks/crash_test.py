"""Kill processes at random moments, let the pipeline finish, and show that nothing was paid twice and nothing is lost.

    python benchmarks/crash_test.py --kills 200 --files 60
    python benchmarks/crash_test.py --kills 200 --files 60 --postgres --uploads

A platform (the emulator), a code server, a daemon and its run processes work on a folder of small sound files. Run
processes are killed with SIGKILL while they start, wait, create tasks, fetch results and write; in between the
platform, the daemon, the code server and everything at once are killed as well. Whenever all files are done before the
kills are, some of them get other content or a copy under another name. Afterwards everything is compared with the
platform's own database, which keeps a task in the transaction that creates it. Ends with 0 if every promise was kept.

The pipeline has its default policy, but for small runs that are submitted automatically; `--hurried` shortens leases,
doubts and intervals to seconds. `--postgres` keeps the ledger on a PostgreSQL server that the script starts, and
Dagster's own storage as well where dagster-postgres and psycopg2 are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import signal
import sqlite3
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from crash_stack import Service, Stack, crash_blueprint, send

from embed_pipeline.ledger import tables
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.publish import MediaStatus, read_statuses

_SAMPLES_PER_SEC = 1000
_LOOK_SEC = 2.0
_TIDY_WITHIN_SEC = 300.0
_POLICY: dict[str, Any] = {"submit_automatically": True, "partitions_per_run": 6, "runs_per_tick": 4}
_HURRIED: dict[str, Any] = {
    "sensor_interval_sec": 5,
    "collect_wait_sec": 0.0,
    "retry_backoff_sec": 1.0,
    "lease_sec": 10.0,
    "create_timeout_sec": 5.0,
    "doubt_margin_sec": 5.0,
}


@dataclass
class Library:
    """The media folder, with all that was ever in it."""

    folder: Path
    chance: random.Random
    contents: dict[str, list[int]] = field(default_factory=dict)
    made: int = 0

    def write(self, name: str, seed: int | None = None) -> None:
        """Give a file content of its own, or the content that this seed gives."""
        if seed is None:
            self.made += 1
            seed = self.made
        self.contents.setdefault(name, []).append(seed)
        path = self.folder / name
        partial = path.with_name(f"{path.name}.part")
        with wave.open(str(partial), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(_SAMPLES_PER_SEC)
            file.writeframes(random.Random(seed).randbytes(5 * _SAMPLES_PER_SEC))
        partial.replace(path)

    def fill(self, files: int) -> None:
        """Make the first files; every tenth is a copy of one before."""
        for number in range(files):
            name = f"recording {number:03}.wav"
            self.write(name, self.contents[f"recording {number - 5:03}.wav"][-1] if number % 10 == 9 else None)

    def change(self) -> None:
        """Give a third of the files other content, and one of them a copy under a new name."""
        names = sorted(self.contents)
        for name in self.chance.sample(names, max(1, len(names) // 3)):
            self.write(name)
        self.write(f"copy {len(names):03}.wav", self.contents[self.chance.choice(names)][-1])

    def distinct(self) -> int:
        """Return how many contents there ever were: how many tasks there may be."""
        return len({seed for seeds in self.contents.values() for seed in seeds})


@dataclass
class Kills:
    """Which processes are killed, and when.

    Args:
        wanted: Kills in all.
        chance: What moments and targets are drawn from.
    """

    wanted: int
    chance: random.Random
    by_target: Counter[str] = field(default_factory=Counter)
    while_creating: int = 0
    last_at: float = 0.0
    doomed: dict[int, float] = field(default_factory=dict)
    executing: set[int] = field(default_factory=set)
    next_service: str | None = None
    service_at: float = float("inf")

    @property
    def done(self) -> int:
        """Kills so far."""
        return self.by_target.total()

    def look(self, stack: Stack, instance: dg.DagsterInstance, seen: int) -> int:
        """Kill what is due; return how many tasks the platform has created by now."""
        now = time.monotonic()
        running = stack.run_processes()
        self._doom(stack, instance, running, now)
        created = stack.tasks_created()
        just_created = created is not None and created > seen
        if just_created and self.chance.random() < 0.5:
            # A task was created just now: its answer, or the commit that records it, may be under way.
            for pid in running:
                self.doomed[pid] = min(self.doomed[pid], now + self.chance.uniform(0, 0.1))
            if self.next_service is not None:
                self.service_at = min(self.service_at, now + self.chance.uniform(0, 0.1))
        for pid in sorted(pid for pid in running if now >= self.doomed[pid]):
            if self.done < self.wanted and send(pid, signal.SIGKILL):
                self._count("runs", now)
                self.while_creating += just_created
                self._choose_service(now)
        if now >= self.service_at and self.done < self.wanted and self.next_service is not None:
            self._kill_service(stack, self.next_service)
            self.next_service, self.service_at = None, float("inf")
        self.doomed = {pid: at for pid, at in self.doomed.items() if pid in running}
        return seen if created is None else created

    def _doom(self, stack: Stack, instance: dg.DagsterInstance, running: set[int], now: float) -> None:
        for pid in running - self.doomed.keys():
            # Some die while they start, and most when they have: that is when there is something to lose.
            self.doomed[pid] = now + self.chance.uniform(0, 5) if self.chance.random() < 0.2 else float("inf")
        for pid in (stack.executing(instance) & running) - self.executing:
            self.executing.add(pid)
            if self.doomed[pid] == float("inf"):
                self.doomed[pid] = now + self.chance.expovariate(1 / 3)

    def _choose_service(self, now: float) -> None:
        """Let every other killed run be followed by something larger, one kind after the other."""
        order = ("everything", "platform", "code-server", "daemon")
        target = order[self.by_target["runs"] // 2 % len(order) - 1] if self.by_target["runs"] % 2 == 0 else None
        if target is not None and self.next_service is None:
            self.next_service, self.service_at = target, now + self.chance.expovariate(1 / 5)

    def _kill_service(self, stack: Stack, target: str) -> None:
        if target == "everything":
            stack.kill_everything()
        else:
            service: Service = next(one for one in stack.services if one.name == target)
            service.kill(pause_sec=self.chance.uniform(0, 3))
        self._count(target, time.monotonic())

    def _count(self, target: str, now: float) -> None:
        self.by_target[target] += 1
        self.last_at = now
        if self.done % 10 == 0:
            _say(f"{self.done} kills: {dict(self.by_target)}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def _pipeline(stack: Stack) -> Iterator[PipelineContext]:
    with crash_blueprint(stack.environment).pipeline(connect=False) as pipeline:
        yield pipeline


def all_embedded(stack: Stack, library: Library) -> bool:
    """Return whether every file is embedded with its present content."""
    from embed_pipeline.media import MediaLibrary

    with _pipeline(stack) as pipeline:
        states = pipeline.ledger.states(pipeline.target)
        if len(states) < len(library.contents) or set(states.values()) != {"embedded"}:
            return False
        known = pipeline.ledger.media.known(pipeline.name)
    media = MediaLibrary(str(library.folder), settle_seconds=0.0, cache=str(stack.root / "check.sqlite"))
    return media.fingerprints(media.list().files) == {key: file.fingerprint for key, file in known.items()}


def leftovers(stack: Stack, instance: dg.DagsterInstance) -> dict[str, int]:
    """Count what dead processes left and nobody has tidied up yet."""
    with _pipeline(stack) as pipeline:
        outbox, claims = pipeline.ledger.outbox.count(pipeline.name), pipeline.ledger.tasks.claims(pipeline.name)
    unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    return {
        "outbox_rows": outbox,
        "open_claims": claims,
        "started_runs": len(instance.get_runs(dg.RunsFilter(statuses=unfinished))),
    }


def check(library: Library, stack: Stack, instance: dg.DagsterInstance) -> tuple[list[str], dict[str, int]]:
    """Compare what there is with what was promised; return each broken promise in words, and the figures."""
    with closing(sqlite3.connect(stack.platform_state / "emulator.sqlite3")) as platform:
        paid = dict(platform.execute("SELECT task_id, source FROM paid"))
        uploads = {asset_id for (asset_id,) in platform.execute("SELECT id FROM assets")}
    with _pipeline(stack) as pipeline:
        rows = {row.media: row for row in read_statuses(pipeline)}
        broken = [*_broken_payments(library, pipeline, set(paid)), *_broken_results(library, pipeline, rows)]
    if set(rows) != set(library.contents) or any(row.state.value != "embedded" for row in rows.values()):
        broken.append(f"not every file is embedded: {Counter(row.state.value for row in rows.values())}")
    torn, files = _torn(stack.root / "embeddings" / "segments")
    broken += torn
    if files != len(library.contents):
        broken.append(f"{files} Parquet files for {len(library.contents)} media files")
    if orphans := len(uploads - set(paid.values())):
        broken.append(f"{orphans} uploads are on the platform that no task was created from")
    if unreported := set(library.contents) - instance.get_materialized_partitions(dg.AssetKey("segment_embeddings")):
        broken.append(f"Dagster was not told of {len(unreported)} results")
    broken += [f"{count} {name} are left" for name, count in leftovers(stack, instance).items() if count]
    figures = {
        "contents": library.distinct(),
        "tasks": len(paid),
        "embedded_files": sum(row.state.value == "embedded" for row in rows.values()),
        "parquet_files": files,
        "torn_files": len(torn),
        "uploads": len(uploads),
        "orphan_uploads": orphans,
    }
    return broken, figures


def _broken_payments(library: Library, pipeline: PipelineContext, paid: set[str]) -> Iterator[str]:
    """Compare the tasks that the platform created with the contents, and with the ledger."""
    if len(paid) != library.distinct():
        yield f"{len(paid)} tasks were paid for {library.distinct()} contents"
    query = sa.select(tables.task.c.fingerprint, tables.task.c.task_id).where(tables.task.c.task_id.is_not(None))
    with pipeline.ledger.database.read() as (connection, _):
        recorded = [(fingerprint, task_id) for fingerprint, task_id in connection.execute(query)]
    for fingerprint, count in Counter(fingerprint for fingerprint, _ in recorded).items():
        if count > 1:
            yield f"content {fingerprint} has {count} tasks"
    if forgotten := len(paid - {task_id for _, task_id in recorded}):
        yield f"{forgotten} tasks that were paid for are not in the ledger"


def _broken_results(library: Library, pipeline: PipelineContext, rows: Mapping[str, MediaStatus]) -> Iterator[str]:
    """Compare the segments in the dataset with the ledger and with the contents."""
    vectors: dict[bytes, int] = {}
    for key, seeds in library.contents.items():
        segments = pipeline.dataset.read_media(key, pipeline.target.audio_digest)
        if segments is None or key not in rows:
            yield f"{key} has no segments"
            continue
        if segments.task_id != rows[key].task_id or len(segments.start_sec) != rows[key].segments:
            yield f"{key}: the dataset and the status disagree"
        # The emulator's vectors are a hash of the content: equal for copies, and for nothing else.
        if vectors.setdefault(segments.embedding[0].tobytes(), seeds[-1]) != seeds[-1]:
            yield f"{key} has the vectors of another content"


def _torn(folder: Path) -> tuple[list[str], int]:
    import pyarrow.parquet as pq

    torn, files = [], list(folder.rglob("*.parquet"))
    for path in files:
        try:
            pq.read_table(path)
        except Exception as error:  # any failure to read is what is looked for
            torn.append(f"{path.name} cannot be read: {error}")
    return torn, len(files)


def crash_test(stack: Stack, *, kills: int, files: int, seed: int, longest_sec: float) -> dict[str, Any]:
    """Run the test; return its figures.

    Args:
        stack: The system, not started yet.
        kills: Kills, of whatever process.
        files: Media files to begin with.
        seed: What the moments are drawn from.
        longest_sec: Seconds after which the test gives up.
    """
    library = Library(stack.root / "media", random.Random(seed))
    library.folder.mkdir(parents=True)
    library.fill(files)
    doom = Kills(kills, random.Random(seed + 1))
    begin = time.monotonic()
    with stack.instance() as instance:
        try:
            stack.start()
            changes, embedded_at = _play(library, stack, instance, doom, begin + longest_sec)
            tidy_at = _wait_until_tidy(stack, instance)
        finally:
            stack.stop()
        broken, figures = check(library, stack, instance)
        left = leftovers(stack, instance)
        runs = Counter(run.status.value for run in instance.get_runs())
    return {
        "kills": doom.done,
        "kills_by_target": dict(doom.by_target),
        "of_them_within_0.1_s_of_a_create": doom.while_creating,
        "files": len(library.contents),
        "rounds_of_changes": changes,
        **figures,
        "leftovers": left,
        "seconds_from_last_kill_to_embedded": None if embedded_at is None else round(embedded_at - doom.last_at, 1),
        "seconds_from_last_kill_to_no_leftovers": None if tidy_at is None else round(tidy_at - doom.last_at, 1),
        "runs": dict(runs),
        "seconds": round(time.monotonic() - begin),
        "broken": broken,
    }


def _play(
    library: Library, stack: Stack, instance: dg.DagsterInstance, doom: Kills, deadline: float
) -> tuple[int, float | None]:
    """Kill until all kills are done; return the rounds of changes, and when every file was embedded after the last."""
    changes, seen, looked = 0, 0, 0.0
    while time.monotonic() < deadline:
        seen = doom.look(stack, instance, seen)
        stack.start_what_is_due()
        time.sleep(0.05)  # how finely the moments of death are chosen
        if time.monotonic() - looked < _LOOK_SEC:
            continue
        looked = time.monotonic()
        if all_embedded(stack, library):
            if doom.done >= doom.wanted:
                return changes, time.monotonic()
            library.change()
            changes += 1
    return changes, None


def _wait_until_tidy(stack: Stack, instance: dg.DagsterInstance) -> float | None:
    deadline = time.monotonic() + _TIDY_WITHIN_SEC
    while time.monotonic() < deadline:
        stack.start_what_is_due()
        if not any(leftovers(stack, instance).values()):
            return time.monotonic()
        time.sleep(1)
    return None


@contextmanager
def _urls(postgres: bool) -> Iterator[tuple[str, str]]:
    """Start a PostgreSQL server if it is wanted; yield the ledger's URL and that of Dagster's storage."""
    if not postgres:
        yield "", ""
        return
    from embed_pipeline_tests.postgres import postgres_server

    with postgres_server() as server, server.database() as ledger, server.database() as storage:
        installed = all(importlib.util.find_spec(name) for name in ("dagster_postgres", "psycopg2"))
        if not installed:
            _say("dagster-postgres is not installed: Dagster keeps its own storage on SQLite.")
        # SQLAlchemy 2.1 takes a plain postgresql:// for psycopg 3.
        url = server.url(storage).replace("postgresql://", "postgresql+psycopg2://")
        yield server.url(ledger), url if installed else ""


def main() -> int:
    """Read the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="keep ledger and Dagster's storage on PostgreSQL")
    parser.add_argument("--uploads", action="store_true", help="deliver files by upload")
    parser.add_argument("--hurried", action="store_true", help="leases, doubts and intervals of a few seconds")
    parser.add_argument("--longest", type=float, default=4 * 3600.0, help="seconds after which to give up")
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which is kept")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything which was started is ended
    policy = _POLICY | (_HURRIED if arguments.hurried else {})
    with tempfile.TemporaryDirectory(prefix="crash-test-") as folder, _urls(arguments.postgres) as (ledger, storage):
        root = (arguments.keep or Path(folder)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        stack = Stack(root, policy, ledger, storage, arguments.uploads)
        result = crash_test(
            stack, kills=arguments.kills, files=arguments.files, seed=arguments.seed, longest_sec=arguments.longest
        )
    print(json.dumps(result, indent=2))
    return 1 if result["broken"] or result["kills"] < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
