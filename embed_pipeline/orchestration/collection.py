"""Collecting: what a run does to bring the segments of its media files into the dataset, and lose no result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.findings import Findings
from embed_pipeline.orchestration.hindrances import Hindrances
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.observations import outcome_observation
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.results import (
    Collected,
    EmbeddedTasks,
    Expired,
    Failed,
    NotReady,
    fetch_result,
    result_event,
)
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.task_statuses import survey
from embed_pipeline.orchestration.unexpected import traceback_of, unexpected
from embed_pipeline.orchestration.versions import Outcome, OutcomeState

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient
    from embed_pipeline.dataset import EmbeddingDataset, WrittenFile

_FIRST_LOOK_SEC = 1.0
_SLOWEST_LOOK_SEC = 20.0


@dataclass
class CollectionReport:
    """What a collecting run did, by partition key.

    Args:
        collected: What was written.
        findings: What is wrong with what was written.
        processing: Tasks that were still processing when they were last looked at.
        unseen: Why others were not looked at.
        failed: Why others have no segments.
        stopped: Why the run sent no more requests, where something stands in the way of them all.
    """

    collected: dict[str, WrittenFile] = field(default_factory=dict)
    findings: dict[str, Findings] = field(default_factory=dict)
    processing: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None

    @property
    def segments(self) -> int:
        """Segments written."""
        return sum(written.rows for written in self.collected.values())


@dataclass(frozen=True, slots=True)
class _InTheDataset:
    """A result that was written, with what is told of it; not its segments: a run may write more than memory holds."""

    written: WrittenFile
    event: dg.AssetMaterialization
    findings: Findings


@dataclass
class Collection:
    """One collection, with all it needs given as values.

    Args:
        names: The pipeline's names.
        ledger: What is known so far.
        client: The platform.
        platform: Its host name, or ``emulator``.
        dataset: Where segments are written.
        settings: What the files are embedded with where their task does not tell.
        policy: The team's choices.
        log_event: Stores an event at once; called from one thread only.
        log: Told in words what is worth reading in the run's log.
        concurrency: Results fetched at once; each may hold a hundred megabytes while it is read.
    """

    names: PipelineNames
    ledger: Ledger
    client: EmbedClient
    platform: str
    dataset: EmbeddingDataset
    settings: EmbeddingSettings
    policy: PipelinePolicy
    log_event: Callable[[dg.AssetMaterialization | dg.AssetObservation], None]
    log: Callable[[str], None]
    concurrency: int = 4

    def __post_init__(self) -> None:
        self._report = CollectionReport()
        self._hindrances = Hindrances()
        self._tasks: dict[str, TaskRecord] = {}
        self._embedded = EmbeddedTasks(self.ledger, ())

    def run(self, keys: Sequence[str]) -> CollectionReport:
        """Write the segments of each of these media files, waiting a bounded time for tasks that are not ready."""
        self._tasks = self.ledger.latest_tasks(keys)
        for key in keys:
            if key not in self._tasks:
                self._report.failed[key] = (
                    "has no embedding task yet: materialize embedding_tasks for it first, or both assets together."
                )
        for key, task in list(self._tasks.items()):
            if task.platform != self.platform:
                # Another platform does not know it, and must not be taken to say that it expired.
                del self._tasks[key]
                self._report.failed[key] = (
                    f"task {task.task_id} was created on {task.platform}, and this pipeline asks {self.platform}. Set "
                    "EMBED_BASE_URL and EMBED_API_KEY back to collect it, or materialize embedding_tasks anew."
                )
        self._embedded = EmbeddedTasks(self.ledger, {task.version for task in self._tasks.values()})
        deadline = time.monotonic() + self.policy.collect_wait_sec
        waiting, pause = self._fetch(list(self._tasks)), _FIRST_LOOK_SEC
        while waiting and self._report.stopped is None and time.monotonic() < deadline:
            if pause == _FIRST_LOOK_SEC:
                self.log(f"Waiting for {len(waiting)} tasks that are still processing.")
            time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
            pause = min(pause * 1.5, _SLOWEST_LOOK_SEC)
            waiting = self._still_processing(waiting)
        for key in waiting:
            self._report.processing[key] = self._tasks[key].task_id
        return self._report

    def _still_processing(self, waiting: Sequence[str]) -> list[str]:
        by_id = {self._tasks[key].task_id: self._tasks[key].submitted_at for key in waiting}
        found = survey(self.client, by_id)
        if found.problem is not None:
            self._report.stopped = str(found.problem)
            return list(waiting)
        ended = [key for key in waiting if found.has_ended(self._tasks[key].task_id)]
        left = set(self._fetch(ended))
        return [key for key in waiting if key not in set(ended) or key in left]

    def _fetch(self, keys: Sequence[str]) -> list[str]:
        """Fetch and write some at once; the keys whose tasks turned out to be still processing."""
        todo = list(reversed(keys))
        under_way: dict[Future[Any], str] = {}
        unready: list[str] = []
        with ThreadPoolExecutor(self.concurrency) as pool:
            while under_way or (todo and self._report.stopped is None):
                while todo and self._report.stopped is None and len(under_way) < self.concurrency:
                    key = todo.pop()
                    under_way[pool.submit(self._result, key)] = key
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    key = under_way.pop(future)
                    if self._take(key, future):
                        unready.append(key)
        self._report.unseen.update(dict.fromkeys(todo, self._report.stopped or ""))
        return unready

    def _result(self, key: str) -> _InTheDataset | Failed | Expired | NotReady:
        result = fetch_result(self._tasks[key], self.client, self.dataset, self._settings_of(key), self._embedded)
        return self._told(key, result) if isinstance(result, Collected) else result

    def _settings_of(self, key: str) -> EmbeddingSettings:
        """What the task was asked for, whatever the settings have become since."""
        return self._tasks[key].settings or self.settings

    def _take(self, key: str, future: Future[_InTheDataset | Failed | Expired | NotReady]) -> bool:
        """Log what came of one fetch; whether its task is still processing."""
        try:
            result = future.result()
        except EmbedPipelineError as error:
            if self._hindrances.hindered_by(error):
                self._report.stopped = self._report.unseen[key] = self._report.stopped or str(error)
            else:
                self._report.failed[key] = str(error)
            return False
        except Exception as error:
            # Whatever is wrong with one file's result, the others must not expire for it.
            self._report.failed[key] = unexpected(error)
            self.log(f"{key}: {traceback_of(error)}")
            return False
        self._hindrances.passed()
        match result:
            case NotReady():
                return True
            case _InTheDataset():
                self.log_event(result.event)
                self._report.collected[key] = result.written
                self._report.findings[key] = result.findings
            case Failed() | Expired():
                task = self._tasks[key]
                state = OutcomeState.EXPIRED
                if isinstance(result, Failed):
                    state = OutcomeState.PASSING if result.passing else OutcomeState.FAILED
                self.log_event(
                    outcome_observation(self.names, key, Outcome(state, task.attempt, task.version), result.message)
                )
                self._report.failed[key] = result.message
        return False

    def _told(self, key: str, result: Collected) -> _InTheDataset:
        task, settings = self._tasks[key], self._settings_of(key)
        event, findings = result_event(self.names, task, result, settings, pictures=self.policy.pictures)
        return _InTheDataset(result.written, event, findings)
