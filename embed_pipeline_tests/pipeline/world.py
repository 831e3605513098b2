"""A pipeline without Dagster, small enough for a test: a media folder, the emulator, a ledger whose clock moves."""

from __future__ import annotations

import random
import time
import wave
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from embed_pipeline.client import EmbedClient, RetryPolicy
from embed_pipeline.dataset import EmbeddingDataset, MediaSegments
from embed_pipeline.emulator import Emulator
from embed_pipeline.ledger import Ledger, MediaRow, OutboxRow, TaskRow
from embed_pipeline.ledger.states import TaskState
from embed_pipeline.media import MediaLibrary
from embed_pipeline.pipeline.collect import CollectionReport, collect, look_for_ended
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.discover import DiscoveryReport, discover
from embed_pipeline.pipeline.publish import read_statuses
from embed_pipeline.pipeline.recover import recover_in_passing
from embed_pipeline.pipeline.settings import PipelinePolicy
from embed_pipeline.pipeline.submit import SubmissionReport, submit
from embed_pipeline_tests.ledger.values import task_rows

_SAMPLES_PER_SEC = 1000
MINUTES = 5 / 60
"""Media minutes of a sound file of the usual length."""

AT_ONCE = PipelinePolicy(submit_automatically=True, collect_wait_sec=0.0, retry_backoff_sec=0.0)
"""A policy that waits for nothing."""

QUICK = RetryPolicy(initial_delay_sec=0.01, max_delay_sec=0.02, settle_delays_sec=(0.01, 0.02))
"""Retries of the client without long waits."""


def write_sound(path: Path, seed: int, seconds: float = 5.0) -> Path:
    """Write a real, small WAV file; another seed is another content. Replaces what is there at once, as a copy does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(_SAMPLES_PER_SEC)
        file.writeframes(random.Random(seed).randbytes(int(seconds * _SAMPLES_PER_SEC)))
    partial.replace(path)
    return path


class Clock:
    """The time, which a test can move on."""

    def __init__(self) -> None:
        self.ahead_sec = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_sec

    def move(self, seconds: float) -> None:
        self.ahead_sec += seconds


class World:
    """A media library, the platform, a ledger and one pipeline between them.

    Args:
        root: An empty folder.
        emulator: The platform.
        ledger: The URL of a ledger; by default a SQLite file below the root.
        policy: The team's choices.
        client: Further keyword arguments of the client.
        **context: Other fields of the pipeline.
    """

    def __init__(
        self,
        root: Path,
        emulator: Emulator,
        *,
        ledger: str | None = None,
        policy: PipelinePolicy = AT_ONCE,
        client: dict[str, Any] | None = None,
        **context: Any,
    ) -> None:
        self.root, self.media, self.emulator = root, root / "media", emulator
        self.media.mkdir(exist_ok=True)
        self.clock = Clock()
        # A key of its own: clients of a process with the same key share what they remember.
        client = {"api_key": f"key-{uuid4().hex}", "base_url": emulator.base_url, "retries": QUICK, **(client or {})}
        self.pipeline = PipelineContext(
            library=MediaLibrary(self.media, settle_seconds=0.0, cache=root / "fingerprints.sqlite"),
            dataset=EmbeddingDataset(str(root / "embeddings")),
            ledger=Ledger(ledger or f"sqlite:///{root}/ledger.db", clock=self.clock),
            client=EmbedClient(**client),
            policy=policy,
            **context,
        )

    @property
    def ledger(self) -> Ledger:
        return self.pipeline.ledger

    def close(self) -> None:
        self.pipeline.connected().close()
        self.ledger.close()

    def varied(self, **changes: Any) -> World:
        """Return the same world under another policy, or with other values in its pipeline."""
        policy = {name: value for name, value in changes.items() if name in PipelinePolicy.model_fields}
        rest = {name: value for name, value in changes.items() if name not in policy}
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.pipeline = replace(self.pipeline, policy=self.pipeline.policy.model_copy(update=policy), **rest)
        return other

    # What is done.

    def add(self, *names: str, first_seed: int | None = None, seconds: float = 5.0) -> None:
        """Write media files; each has a content of its own unless `first_seed` says which."""
        for number, name in enumerate(names):
            write_sound(self.media / name, hash(name) if first_seed is None else first_seed + number, seconds)

    def discover(self) -> DiscoveryReport:
        return discover(self.pipeline)

    def submit(self, *keys: str, **options: Any) -> SubmissionReport:
        """Submit media files; without keys, all that are due."""
        wanted = keys or tuple(file.key for file in self.ledger.due(self.pipeline.target))
        return submit(self.pipeline, wanted, **options)

    def collect(self, *keys: str, **options: Any) -> CollectionReport:
        """Collect media files once the platform has finished; without keys, all whose task has ended."""
        self.finish_computing()
        wanted = keys or tuple(file.key for file in look_for_ended(self.pipeline).ended)
        return collect(self.pipeline, wanted, **options)

    def recover(self) -> str:
        return recover_in_passing(self.pipeline, owner=uuid4().hex)

    def settle(self, most: int = 12) -> dict[str, str]:
        """Discover, submit and collect until nothing is left to do; return the state of each media file."""
        for _ in range(most):
            self.discover()
            self.recover()
            submitted = self.submit()
            collected = self.collect()
            progress = (submitted.created, submitted.adopted, submitted.attached, collected.collected, collected.failed)
            if not any(progress):
                return self.states()
        raise AssertionError(f"still at work after {most} rounds: {self.states()}")

    def finish_computing(self) -> None:
        """Wait until the platform is done with what it has."""
        store, deadline = self.emulator.platform.store, time.monotonic() + 60
        while store.reader.execute("SELECT count(*) FROM tasks WHERE work != 'done'").fetchone()[0]:
            assert time.monotonic() < deadline, "the emulator does not come to an end"
            time.sleep(0.002)

    def faults(self, *rules: dict[str, Any], seed: int = 0) -> None:
        self.emulator.platform.faults.replace(rules, seed)

    # What came of it.

    def states(self) -> dict[str, str]:
        return {key: state.value for key, state in self.ledger.states(self.pipeline.target).items()}

    def reason(self, key: str) -> str:
        return next(row.reason for row in read_statuses(self.pipeline) if row.media == key)

    def row(self, key: str) -> MediaRow:
        return self.ledger.rows(self.pipeline.target, [key])[key]

    def task(self, key: str) -> TaskRow:
        """Return the latest task of a media file's content."""
        task = self.row(key).task
        assert task is not None
        return task

    def open_claims(self) -> list[TaskRow]:
        """Return the claims that nothing came of yet."""
        return [row for row in task_rows(self.ledger) if row.state is TaskState.CLAIMED]

    def created(self) -> Counter[str]:
        """Return how many tasks the platform created from each source, by file name."""
        entries = self.emulator.platform.journal.entries(endpoint="create", limit=100_000)
        by_task = {entry["task_id"]: entry["source"] for entry in entries if entry["task_id"]}
        return Counter(unquote(source.rpartition("/")[2]) for source in by_task.values())

    def paid(self) -> int:
        """Return how many tasks the platform created."""
        return int(self.emulator.platform.journal.summary()["tasks_created"])

    def requests(self, endpoint: str | None = None) -> int:
        """Return how many requests the platform has seen."""
        summary = self.emulator.platform.journal.summary()["requests"]
        wanted = summary.values() if endpoint is None else [summary.get(endpoint, {})]
        return sum(count for by_status in wanted for count in by_status.values())

    def uploads(self) -> set[str]:
        """Return the ids of the uploads that the platform has."""
        return {str(asset.id) for asset in self.pipeline.connected().assets.list()}

    def segments(self, key: str) -> MediaSegments | None:
        """Return what the dataset holds of a media file under the pipeline's settings; None for nothing."""
        digest = self.pipeline.settings.digest("audio" if key.endswith(".wav") else "video")
        return self.pipeline.dataset.read_media(key, digest)


class Reporter:
    """Keeps what a run is to report, and deletes it from the outbox."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.changes: list[tuple[str, str]] = []

    def __call__(self, rows: Sequence[OutboxRow]) -> None:
        self.changes += [(row.kind, row.key) for row in rows]
        self._ledger.outbox.delete([row.id for row in rows])
