"""Kill runs at random moments, let the pipeline finish, and show that nothing was paid for twice and nothing is lost.

    python benchmarks/crash_test.py --kills 200 --files 60

A daemon, a code server and run processes of their own work on a folder of small sound files against the emulator. Run
processes are killed with SIGKILL while they start, wait, create tasks, fetch results and write; the daemon with its
sensors is killed now and then as well, and so is everything at once, as a machine dies, so that nobody is left to tell
of the runs. After every other of these deaths the system does not know its processes by name, as on another machine,
and only their signs of life tell which runs are dead. Whenever all files are done before the kills are, some of them
get other content or a copy under another name. Afterwards everything is compared with the emulator's journal, which the
killing cannot touch. Ends with 0 if every promise was kept.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import wave
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from crash_stack import Stack, send
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.status import read_statuses

from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.emulator import Emulator, EmulatorSettings

_SAMPLES_PER_SEC = 1000
_NAMES = PipelineNames()


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
        """How many contents there ever were: how many tasks there may be."""
        return len({seed for seeds in self.contents.values() for seed in seeds})


@dataclass
class Kills:
    """Which processes are killed, and when."""

    wanted: int
    chance: random.Random
    done: int = 0
    daemons: int = 0
    machines: int = 0
    while_creating: int = 0
    doomed: dict[int, float] = field(default_factory=dict)
    executing: set[int] = field(default_factory=set)

    def look(self, stack: Stack, instance: dg.DagsterInstance, emulator: Emulator, seen: int) -> int:
        """Kill what is due; returns how many requests the platform has seen by now."""
        now = time.monotonic()
        running = stack.run_processes()
        for pid in running - self.doomed.keys():
            # Some die while they start, and most when they have: that is when there is something to lose.
            self.doomed[pid] = now + self.chance.uniform(0, 5) if self.chance.random() < 0.2 else float("inf")
        for pid in stack.executing(instance) & running - self.executing:
            self.executing.add(pid)
            if self.doomed[pid] == float("inf"):
                self.doomed[pid] = now + self.chance.expovariate(1 / 3)
        created = len(emulator.platform.journal.entries(endpoint="create", limit=10_000))
        if created > seen and self.chance.random() < 0.5:
            # A task was created just now: its answer, or its event, may be under way.
            for pid in running:
                self.doomed[pid] = min(self.doomed[pid], now + self.chance.uniform(0, 0.1))
        for pid, at in list(self.doomed.items()):
            if now >= at and self.done < self.wanted and pid in running and send(pid, signal.SIGKILL):
                self.done += 1
                self.while_creating += created > seen
                if self.done % 10 == 0:
                    _say(f"{self.done} runs killed, {created} create requests seen")
                if self.done % 12 == 3:
                    self.done += stack.kill_everything()
                    self.machines += 1
                    stack.start()
                    break
                if self.done % 40 == 0:
                    stack.kill_daemon()
                    self.daemons += 1
                    stack.start()
        self.doomed = {pid: at for pid, at in self.doomed.items() if pid in running}
        return created


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _taken_for_dead(instance: dg.DagsterInstance) -> dict[str, int]:
    """Runs that the pipeline itself ended, by what it knew them to be dead from."""
    found = Counter[str]()
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])):
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
            if "taken for dead" in (words := entry.get_dagster_event().message or ""):
                found["process gone" if "process is gone" in words else "no sign of life"] += 1
    return dict(found)


def _states(instance: dg.DagsterInstance) -> Counter[str]:
    return Counter(row.state.value for row in read_statuses(instance, _NAMES))


def _all_done(instance: dg.DagsterInstance, library: Library) -> bool:
    """Whether every file is embedded with its present content."""
    rows = read_statuses(instance, _NAMES)
    if len(rows) < len(library.contents) or any(row.state.value != "embedded" for row in rows):
        return False
    from embed_pipeline.orchestration.ledger import Ledger

    from embed_pipeline.media import MediaLibrary

    media = MediaLibrary(library.folder, settle_seconds=0.0, cache=library.folder.parent / "check.sqlite")
    told = Ledger(instance, _NAMES).media_versions()
    return media.fingerprints(media.list().files) == {row.media: told[row.media] for row in rows}


def check(library: Library, root: Path, emulator: Emulator, instance: dg.DagsterInstance) -> list[str]:
    """Compare what there is with what was promised; each broken promise in words."""
    broken = []
    entries = emulator.platform.journal.entries(endpoint="create", limit=100_000)
    tasks = {entry["task_id"]: entry["source"] for entry in entries if entry["task_id"]}
    if len(tasks) != library.distinct():
        broken.append(f"{len(tasks)} tasks were paid for {library.distinct()} contents")
    rows = {row.media: row for row in read_statuses(instance, _NAMES)}
    if set(rows) != set(library.contents) or any(row.state.value != "embedded" for row in rows.values()):
        broken.append(f"not every file is embedded: {Counter(row.state.value for row in rows.values())}")
    dataset = EmbeddingDataset(str(root / "embeddings"))
    digest = EmbeddingSettings().digest("audio")
    vectors: dict[bytes, int] = {}
    for key, seeds in library.contents.items():
        segments = dataset.read_media(key, digest)
        if segments is None:
            broken.append(f"{key} has no segments")
            continue
        if segments.task_id != rows[key].task_id or len(segments.start_sec) != rows[key].segments:
            broken.append(f"{key}: the dataset and the status tell different things")
        # The emulator's vectors are a hash of the content: equal for copies, and for nothing else.
        if vectors.setdefault(segments.embedding[0].tobytes(), seeds[-1]) != seeds[-1]:
            broken.append(f"{key} has the vectors of another content")
    import pyarrow.parquet as pq

    files = list((root / "embeddings" / "segments").rglob("*.parquet"))
    for path in files:
        try:
            pq.read_table(path)
        except Exception as error:  # any failure to read is what is looked for
            broken.append(f"{path.name} cannot be read: {error}")
    if len(files) != len(library.contents):
        broken.append(f"{len(files)} Parquet files for {len(library.contents)} media files")
    return broken


def crash_test(kills: int, files: int, seed: int, root: Path, longest_sec: float) -> dict[str, Any]:
    """Run the test; returns its figures.

    Args:
        kills: Run processes to kill.
        files: Media files to begin with.
        seed: What the moments are drawn from.
        root: An empty folder.
        longest_sec: Seconds after which the test gives up.
    """
    library = Library(root / "media", random.Random(seed))
    library.folder.mkdir(parents=True)
    library.fill(files)
    doom = Kills(kills, random.Random(seed + 1))
    # Each create takes a moment before it has its effect and another before its answer: time to die in.
    slow = [
        {"kind": "latency", "on": "create", "seconds": 0.15, "distribution": "exponential"},
        {"kind": "latency", "on": "retrieve", "seconds": 0.1, "distribution": "exponential"},
    ]
    settings = EmulatorSettings(engine="instant", media_root=library.folder, workers=1, faults=tuple(slow))
    with Emulator(settings) as emulator:
        stack = Stack(root, emulator.base_url)
        with dg.DagsterInstance.from_config(str(stack.home)) as instance:
            return _play(library, stack, emulator, instance, doom, longest_sec)


def _play(
    library: Library, stack: Stack, emulator: Emulator, instance: dg.DagsterInstance, doom: Kills, longest_sec: float
) -> dict[str, Any]:
    begin = time.monotonic()
    stack.start()
    changes, seen, looked = 0, 0, 0.0
    try:
        while time.monotonic() - begin < longest_sec:
            seen = doom.look(stack, instance, emulator, seen)
            time.sleep(0.05)  # how finely the moments of death are chosen
            if time.monotonic() - looked < 5:
                continue
            looked = time.monotonic()
            if _all_done(instance, library):
                if doom.done >= doom.wanted:
                    break
                library.change()
                changes += 1
    finally:
        stack.stop()
    broken = check(library, stack.root, emulator, instance)
    runs = Counter(run.status.value for run in instance.get_runs())
    return {
        "kills": doom.done,
        "of_them_within_0.1_s_of_a_create": doom.while_creating,
        "daemon_kills": doom.daemons,
        "kills_of_everything": doom.machines,
        "runs_taken_for_dead": _taken_for_dead(instance),
        "files": len(library.contents),
        "rounds_of_changes": changes,
        "contents": library.distinct(),
        "tasks": emulator.platform.journal.summary()["tasks_created"],
        "states": dict(_states(instance)),
        "runs": dict(runs),
        "seconds": round(time.monotonic() - begin),
        "broken": broken,
    }


def main() -> int:
    """Read the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=3600.0, help="seconds after which to give up")
    parser.add_argument("--keep", type=Path, help="an empty folder to work in, which is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crash-test-") as folder:
        root = arguments.keep or Path(folder)
        result = crash_test(arguments.kills, arguments.files, arguments.seed, root, arguments.longest)
    print(json.dumps(result, indent=2))
    return 1 if result["broken"] or result["kills"] < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
