"""Submitting: what a run does to give each of its media files an embedding task, and pay for none twice.

What takes long is done before a turn: fingerprints, headers, uploads. A turn holds the lock, and is short. In it
everything is decided anew, on a ledger to which nobody else adds a task meanwhile, and what is to be created is created
and told at once. So it does not matter what was thought before the turn, nor how many runs take turns, nor where one
dies: within its turn it stands open for the others to look into, and outside all it has created is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.errors import DatasetError
from embed_pipeline.orchestration.creation import Creation
from embed_pipeline.orchestration.dataset_witness import DatasetWitness, with_witnessed
from embed_pipeline.orchestration.day_budget import read_day_budget
from embed_pipeline.orchestration.knowledge import gather_knowledge
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.left_behind import LeftBehind
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.open_submissions import open_submission, settle_submission
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.preparation import Part, Preparation
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.results import result_event, result_in_the_dataset
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.sources import Delivery
from embed_pipeline.orchestration.submission_events import SubmissionEvents
from embed_pipeline.orchestration.submission_plan import Action, Decision, Known, plan_submissions
from embed_pipeline.orchestration.submission_report import SubmissionReport
from embed_pipeline.orchestration.versions import content_of, is_gone
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from concurrent.futures import Future

    from embed_pipeline.client import EmbedClient, RetryLaterError, TasksCreateResponse
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.media import MediaLibrary

# A turn begins nothing new after this; long enough that what it costs to take one does not show.
_TURN_SEC = 2.0
# For a limit that passes later than this, a run waits outside its turn; later than that, it leaves the rest for later.
_LONGEST_WAIT_IN_TURN_SEC = 1.0
_LONGEST_WAIT_SEC = 120.0
_TURNS_IN_VAIN = 5


@dataclass
class Submission:
    """One run's submission, with all it needs given as values.

    Args:
        names: The pipeline's names.
        ledger: What is known so far.
        instance: The Dagster instance, for the runs that did not settle.
        turn: The right to create tasks, which one run at a time has.
        library: Where the media files are.
        dataset: Where segments are written.
        client: The platform.
        settings: What the files are embedded with.
        policy: The team's choices.
        platform: The platform's host name, or ``emulator``.
        delivery: How files reach the platform.
        run_id: This run.
        root_run_id: This run, or the first of its re-executions.
        code_version: The code version of ``embedding_tasks``.
        terms: A digest of what a content is refused under: settings, platform and bounds of duration.
        log_event: Stores an event at once; called from one thread only.
        log: Told in words what is worth reading in the run's log.
        concurrency: Requests under way at once.
        force: Submit even what a task serves already.
        retry_failed: Submit again what failed or expired for good.
    """

    names: PipelineNames
    ledger: Ledger
    instance: dg.DagsterInstance
    turn: Callable[[], AbstractContextManager[None]]
    library: MediaLibrary
    dataset: EmbeddingDataset
    client: EmbedClient
    settings: EmbeddingSettings
    policy: PipelinePolicy
    platform: str
    delivery: Delivery
    run_id: str
    root_run_id: str
    code_version: str
    terms: str
    log_event: Callable[[dg.AssetMaterialization | dg.AssetObservation], None]
    log: Callable[[str], None]
    concurrency: int = 8
    force: bool = False
    retry_failed: bool = False

    def __post_init__(self) -> None:
        self._events = SubmissionEvents(self.names, self.code_version, self.terms, self.log_event, self.log)
        self._limits_met: list[RetryLaterError] = []
        self._turns_in_vain = 0
        self._waited_sec = 0.0
        self._preparation = Preparation(
            library=self.library,
            client=self.client,
            settings=self.settings,
            platform=self.platform,
            delivery=self.delivery,
            concurrency=self.concurrency,
            on_problem=self._events.problem,
            hindrances=self._events.hindrances,
            log=self.log,
            witness=None
            if self.force
            else DatasetWitness(self.dataset, self.ledger, self.settings, self.platform, self.concurrency),
        )
        self._creation = Creation(
            client=self.client,
            settings=self.settings,
            preparation=self._preparation,
            instance=self.instance,
            run_id=self.run_id,
            concurrency=self.concurrency,
            longest_wait_sec=_LONGEST_WAIT_IN_TURN_SEC,
        )
        self._left_behind = LeftBehind(
            names=self.names,
            instance=self.instance,
            ledger=self.ledger,
            library=self.library,
            client=self.client,
            settings=self.settings,
            lifetime=timedelta(seconds=self.policy.result_lifetime_sec),
            run_id=self.run_id,
            log=self.log,
        )

    def run(self, keys: Sequence[str]) -> SubmissionReport:
        """Give each of these media files a task; what cannot be done now is in the report, and nothing is lost.

        They go through in parts, so that the first are submitted before the last are read.
        """
        size = self.policy.partitions_per_run
        for start in range(0, len(keys), size):
            self._submit(keys[start : start + size])
            if self._events.report.stopped:
                break
        stats = self.client.stats
        self._events.report.traffic = replace(stats, waited_sec=stats.waited_sec + self._waited_sec)
        return self._events.report

    def _submit(self, keys: Sequence[str]) -> None:
        part = self._preparation.read(keys)
        self._tell_what_changed(part)
        try:
            while not part.is_done:
                if not part.is_ready and self._events.obstacle is None:
                    self._preparation.make_ready(part, partial(self._decide, part, self._view(part)))
                with self.turn():
                    wait_sec = self._take_turn(part)
                self._tell_of_segments(part)
                if wait_sec:
                    self.log(f"The platform's limits let nothing through for {wait_sec:.0f} s; others may go first.")
                    time.sleep(wait_sec)
                    self._waited_sec += wait_sec
        finally:
            self._preparation.delete_unused(part)

    def _take_turn(self, part: Part) -> float:
        """Deal with as many files as a turn has time for.

        Returns:
            How long a limit lets nothing more through, in seconds.
        """
        self._reattach_what_is_gone(part)
        self._leave_what_changed_meanwhile(part)
        view = self._view(part)
        decisions = self._decide(part, view)
        for decision in decisions:
            self._carry_out_without_platform(part, decision)
        wanted = [decision for decision in decisions if decision.action is Action.SUBMIT]
        wait_sec = 0.0
        if self._events.obstacle is None:
            ready = [one for one in wanted if self._preparation.is_ready(part, one.candidate.key)]
            part.is_ready = len(ready) == len(wanted)
            wait_sec = self._create(part, self._adopt(part, ready, view.now))
        if self._events.obstacle is not None:
            self._hold(part, wanted)
        self._follow(part, decisions)
        return wait_sec

    def _view(self, part: Part) -> _View:
        now = datetime.now(UTC)
        known = gather_knowledge(
            self.ledger, part.candidates.values(), platform=self.platform, root_run_id=self.root_run_id
        )
        return _View(now, known, read_day_budget(self.ledger, self.policy, now).left)

    def _decide(self, part: Part, view: _View) -> list[Decision]:
        return plan_submissions(
            list(part.candidates.values()),
            with_witnessed(view.known, part.witnessed.values()),
            self.policy,
            now=view.now,
            force=self.force,
            retry_failed=self.retry_failed,
            minutes_spent_in_run=self._events.report.minutes,
            minutes_left_today=view.minutes_left_today,
        )

    def _tell_what_changed(self, part: Part) -> None:
        """A person may ask for a file that changed since discovery looked: what is embedded is what is told."""
        told = self.ledger.media_versions(list(part.candidates))
        for key, candidate in part.candidates.items():
            if told.get(key) != candidate.fingerprint:
                self._events.content(part.files[key], candidate.fingerprint)

    def _leave_what_changed_meanwhile(self, part: Part) -> None:
        """Between its fingerprint and its turn a file may have been replaced; its new content is due by itself."""
        told = self.ledger.media_versions(list(part.candidates))
        self._events.media_event_ids.update(self.ledger.media_event_ids(list(part.candidates)))
        for key, candidate in list(part.candidates.items()):
            if told.get(key) != candidate.fingerprint:
                self._events.report.held[key] = "its content changed while it waited for its turn"
                del part.candidates[key]

    def _reattach_what_is_gone(self, part: Part) -> None:
        """A file that vanished after its task was created keeps it, so that asking for all files does not fail."""
        told, tasks = self.ledger.media_versions(part.missing), self.ledger.latest_tasks(part.missing)
        self._events.media_event_ids.update(self.ledger.media_event_ids(list(part.missing)))
        for key, message in part.missing.items():
            version, task = told.get(key, ""), tasks.get(key)
            if is_gone(version) and task is not None and task.fingerprint == content_of(version):
                again = replace(task, how="re-attached", root_run_id=self.root_run_id, storage_id=None)
                self._events.task(again, media_version=version)
            else:
                self._events.report.failed[key] = message
        part.missing.clear()

    def _carry_out_without_platform(self, part: Part, decision: Decision) -> None:
        key = decision.candidate.key
        match decision.action:
            case Action.REATTACH if decision.task is not None:
                task = replace(
                    decision.task,
                    media=key,
                    how="re-attached",
                    settings=self.settings,
                    media_uri=without_credentials(part.files[key].uri),
                    root_run_id=self.root_run_id,
                    storage_id=None,
                )
                self._events.task(task)
                witnessed = part.witnessed.get(key)
                if witnessed is not None and witnessed.version == task.version:
                    part.untold.append(key)
            case Action.HOLD:
                self._events.report.held[key] = decision.reason
            case Action.REFUSE:
                self._events.refused(key, decision.candidate.fingerprint, decision.reason)
            case _:
                return
        del part.candidates[key]

    def _tell_of_segments(self, part: Part) -> None:
        """Tell anew of segments that the dataset has, and no event: the file is embedded, and nothing is fetched.

        They are read, copied and drawn, so this is not done within a turn. Where it fails, or the run dies, the sensor
        finds the task pending and has it collected.
        """
        told_by = self.ledger.task_event_ids(part.untold)
        for key in part.untold:
            task = replace(self._events.report.tasks[key], storage_id=told_by.get(key))
            try:
                result = result_in_the_dataset(task, self.dataset, [part.witnessed[key].media])
            except DatasetError as error:
                self.log(f"{key}: it is served by task {task.task_id}, whose segments are collected later: {error}")
                continue
            if result is None:
                continue  # they went meanwhile
            event, _ = result_event(self.names, task, result, self.settings, pictures=self.policy.pictures)
            self.log_event(event)
            self.log(f"{key}: the dataset has what task {task.task_id} made of it, so it is not paid for again.")
        part.untold.clear()

    def _adopt(self, part: Part, decisions: list[Decision], now: datetime) -> list[Decision]:
        """Take over what runs that died have created, before anything new is."""
        deliveries = {key: self._preparation.delivery_of(file) for key, file in part.files.items()}
        candidates = [decision.candidate for decision in decisions]
        found = self._left_behind.look(candidates, part.files, deliveries, now=now, in_doubt=self._events.in_doubt)
        left = []
        for decision in decisions:
            key = decision.candidate.key
            task, doubt = found.found.get(key), found.undecided.get(key)
            if task is not None:
                at = task.created_at or datetime.now(UTC)
                self._events.task(self._record(part, decision, str(task.id), at, adopted=True))
            elif doubt is not None and not self.force:
                self._events.report.failed[key] = f"{part.files[key].path}: {doubt}"
            else:
                left.append(decision)
                continue
            del part.candidates[key]
        return left

    def _create(self, part: Part, decisions: Sequence[Decision]) -> float:
        """Create tasks while the turn lasts; how long in seconds a limit lets nothing more through."""
        if not decisions:
            return 0.0
        open_submission(self.instance, self.names, self.run_id)
        before, limits = len(self._events.report.tasks), self._limits_met
        limits.clear()
        ends_at = time.monotonic() + _TURN_SEC
        self._creation.create(
            part,
            decisions,
            goes_on=lambda: self._events.obstacle is None and not limits and time.monotonic() < ends_at,
            on_answer=lambda decision, answer: self._take_answer(part, decision, answer),
        )
        if self._events.report.settled:
            settle_submission(self.instance, self.names, self.run_id)
        if not limits:
            return 0.0
        first = min(limits, key=lambda limit: limit.retry_after_sec or 0.0)
        wait_sec = first.retry_after_sec or 0.0
        self._turns_in_vain = self._turns_in_vain + 1 if len(self._events.report.tasks) == before else 0
        if wait_sec > _LONGEST_WAIT_SEC or self._turns_in_vain >= _TURNS_IN_VAIN:
            self._events.limit(first)
            return 0.0
        return wait_sec

    def _take_answer(self, part: Part, decision: Decision, answer: Future[TasksCreateResponse]) -> None:
        """Log what came of one request."""
        from embed_pipeline.client import RetryLaterError

        key = decision.candidate.key
        try:
            task = answer.result()
        except RetryLaterError as limit:
            self._limits_met.append(limit)  # it waits for another turn
            return
        except Exception as error:
            self._events.problem(key, error, decision.candidate.fingerprint, submitting=True)
        else:
            self._events.hindrances.passed()
            self._events.task(self._record(part, decision, task.id, datetime.now(UTC), adopted=task.adopted))
        del part.candidates[key]

    def _hold(self, part: Part, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if part.candidates.pop(decision.candidate.key, None) is not None:
                self._events.report.held[decision.candidate.key] = str(self._events.obstacle)

    def _follow(self, part: Part, decisions: Sequence[Decision]) -> None:
        """What became of a file holds for those of the same content, once anything did."""
        for decision in decisions:
            candidate, leader = decision.candidate, decision.follows
            if leader is not None and leader not in part.candidates:
                uri = without_credentials(part.files[candidate.key].uri)
                self._events.same_as(leader, candidate.key, candidate.fingerprint, uri)
                del part.candidates[candidate.key]

    def _record(
        self, part: Part, decision: Decision, task_id: str, submitted_at: datetime, *, adopted: bool
    ) -> TaskRecord:
        candidate = decision.candidate
        return TaskRecord(
            media=candidate.key,
            task_id=task_id,
            fingerprint=candidate.fingerprint,
            settings_digest=candidate.settings_digest,
            platform=self.platform,
            submitted_at=submitted_at,
            attempt=decision.attempt,
            minutes=candidate.minutes,
            how="adopted" if adopted else "created",
            root_run_id=self.root_run_id,
            media_uri=without_credentials(part.files[candidate.key].uri),
            settings=self.settings,
        )


@dataclass(frozen=True, slots=True)
class _View:
    """What decisions rest on, as it was at one time."""

    now: datetime
    known: Known
    minutes_left_today: float | None
