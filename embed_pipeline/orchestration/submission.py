"""Submitting: what a run does to give each of its media files an embedding task, and pay for none twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError, MediaError, UnplayableMediaError
from embed_pipeline.orchestration.day_budget import read_day_budget
from embed_pipeline.orchestration.hindrances import Hindrances
from embed_pipeline.orchestration.knowledge import gather_knowledge
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.left_behind import LeftBehind
from embed_pipeline.orchestration.measuring import candidates_for, measured, probe_all
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.observations import media_observation, outcome_observation
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.sources import (
    Delivery,
    delivery_for,
    prepare,
    typed_request,
    without_query,
)
from embed_pipeline.orchestration.submission_plan import (
    Action,
    Candidate,
    Decision,
    plan_submissions,
)
from embed_pipeline.orchestration.submission_report import SubmissionReport
from embed_pipeline.orchestration.unexpected import traceback_of, unexpected
from embed_pipeline.orchestration.versions import Outcome, content_of, is_gone, version_tags

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient
    from embed_pipeline.media import MediaFile, MediaLibrary


# How long a run may take to notice that it was ended; others wait longer before they create what it might.
_STILL_RUNNING_SEC = 1.0


class RunEndedError(EmbedPipelineError):
    """The run that is creating tasks was ended by Dagster or by a person meanwhile."""


@dataclass
class Submission:
    """One submission, with all it needs given as values.

    Args:
        names: The pipeline's names.
        ledger: What is known so far.
        instance: The Dagster instance, for the runs that did not settle.
        library: Where the media files are.
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
    """

    names: PipelineNames
    ledger: Ledger
    instance: dg.DagsterInstance
    library: MediaLibrary
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

    def __post_init__(self) -> None:
        self._files: dict[str, MediaFile] = {}
        self._candidates: dict[str, Candidate] = {}
        self._media_event_ids: dict[str, int] = {}
        self._missing: dict[str, str] = {}
        self._look_again_at = 0.0
        self._refused: set[str] = set()
        self._report = SubmissionReport()
        self._hindrances = Hindrances()
        self._limit_reached: str | None = None

    def run(self, keys: Sequence[str], *, force: bool = False, retry_failed: bool = False) -> SubmissionReport:
        """Give each of these media files a task; what cannot be done now is in the report, and nothing is lost."""
        now = datetime.now(UTC)
        self._read_files(keys)
        self._tell_what_changed()
        known, claimed = gather_knowledge(
            self.ledger, self._candidates.values(), platform=self.platform, root_run_id=self.root_run_id
        )
        minutes_left = read_day_budget(self.ledger, self.policy, now).left

        def plan() -> list[Decision]:
            return plan_submissions(
                list(self._candidates.values()),
                known,
                self.policy,
                now=now,
                force=force,
                retry_failed=retry_failed,
                minutes_left_today=minutes_left,
            )

        # Only what would be submitted is opened to learn its length; then limits are counted. What a file really holds
        # may tell it apart from one that it was to follow, which is then opened as well.
        measured_keys: set[str] = set()
        while new := [
            decision.candidate.key
            for decision in plan()
            if decision.action is Action.SUBMIT and decision.candidate.key not in measured_keys
        ]:
            self._measure(new)
            measured_keys.update(new)
        decisions = [decision for decision in plan() if decision.candidate.key not in self._report.failed]
        self._reattach_what_is_gone()
        for decision in decisions:
            self._carry_out_without_platform(decision)
        to_submit = [decision for decision in decisions if decision.action is Action.SUBMIT]
        to_submit = self._adopt(to_submit, claimed, now, force=force)
        self._create(to_submit)
        self._follow(decisions)
        return self._report

    def _read_files(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._files[key] = self.library.file(key)
            except MediaError as error:
                self._missing[key] = str(error)
        fingerprints = self.library.fingerprints(
            list(self._files.values()),
            on_problem=lambda file, error: self._report.failed.update({file.key: str(error)}),
        )
        self._candidates = candidates_for(self._files, fingerprints, self.settings)

    def _tell_what_changed(self) -> None:
        """A person may ask for a file that changed since discovery looked: what is embedded is what is told."""
        told = self.ledger.media_versions(list(self._candidates))
        for key, candidate in self._candidates.items():
            if told.get(key) != candidate.fingerprint:
                self.log_event(media_observation(self.names, self._files[key], candidate.fingerprint))
        self._media_event_ids = dict(self.ledger.media_event_ids(list(self._candidates)))

    def _reattach_what_is_gone(self) -> None:
        """A file that vanished after its task was created keeps it, so that asking for all files does not fail."""
        told, tasks = self.ledger.media_versions(self._missing), self.ledger.latest_tasks(self._missing)
        self._media_event_ids.update(self.ledger.media_event_ids(list(self._missing)))
        for key, message in self._missing.items():
            version, task = told.get(key, ""), tasks.get(key)
            if is_gone(version) and task is not None and task.fingerprint == content_of(version):
                again = replace(task, how="re-attached", root_run_id=self.root_run_id, storage_id=None)
                self._log_task(again, media_version=version)
            else:
                self._report.failed[key] = message

    def _measure(self, keys: Iterable[str]) -> None:
        for file, found in probe_all(self.library, [self._files[key] for key in keys], self.concurrency):
            key = file.key
            if isinstance(found, UnplayableMediaError):
                self._refuse(key, self._candidates[key].fingerprint, str(found))
            elif isinstance(found, MediaError):
                self._report.failed[key] = str(found)
            else:
                self._candidates[key], self._files[key] = measured(self._candidates[key], file, found, self.settings)

    def _carry_out_without_platform(self, decision: Decision) -> None:
        key = decision.candidate.key
        if decision.action is Action.REATTACH and decision.task is not None:
            self._log_task(
                replace(
                    decision.task,
                    media=key,
                    how="re-attached",
                    settings=self.settings,
                    media_uri=without_query(self._files[key].uri),
                    root_run_id=self.root_run_id,
                    storage_id=None,
                )
            )
        elif decision.action is Action.HOLD:
            self._report.held[key] = decision.reason
        elif decision.action is Action.REFUSE:
            self._refuse(key, decision.candidate.fingerprint, f"{self._files[key].path}: {decision.reason}")

    def _adopt(
        self, decisions: list[Decision], claimed: frozenset[str], now: datetime, *, force: bool
    ) -> list[Decision]:
        """Take over what runs that died have created, before anything new is."""
        search = LeftBehind(
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
        deliveries = {key: delivery_for(file, self.delivery, self.platform) for key, file in self._files.items()}
        found = search.look([d.candidate for d in decisions], self._files, deliveries, claimed, now=now)
        left = []
        for decision in decisions:
            key = decision.candidate.key
            task, doubt = found.found.get(key), found.undecided.get(key)
            if task is not None:
                self._log_task(self._record(decision, str(task.id), task.created_at or datetime.now(UTC), adopted=True))
            elif doubt is not None and not force:
                self._report.failed[key] = f"{self._files[key].path}: {doubt}"
            else:
                left.append(decision)
        return left

    def _create(self, decisions: Sequence[Decision]) -> None:
        """Create tasks, some at once; each is logged before a further request takes its place."""
        waiting = list(reversed(decisions))
        under_way: dict[Future[tuple[str, bool]], Decision] = {}
        with ThreadPoolExecutor(self.concurrency) as pool:
            while under_way or (waiting and not self._stopped):
                while waiting and not self._stopped and len(under_way) < self.concurrency:
                    decision = waiting.pop()
                    under_way[pool.submit(self._request, decision)] = decision
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    self._take_answer(under_way.pop(future), future)
        for decision in waiting:
            self._report.held[decision.candidate.key] = str(self._stopped)

    def _request(self, decision: Decision) -> tuple[str, bool]:
        file = self._files[decision.candidate.key]
        source = prepare(
            file,
            delivery_for(file, self.delivery, self.platform),
            self.library,
            self.client,
            fingerprint=decision.candidate.fingerprint,
            digest=decision.candidate.settings_digest,
        )
        answer = self.client.v_2.tasks.create(
            **typed_request(self.settings.request(file.media_type), source),
            media_duration_sec=decision.candidate.length_sec,
            # Asked after every wait for a limit, which may be long.
            request_options={"before_attempt": self._give_way_if_ended},
        )
        return answer.id, answer.adopted

    def _give_way_if_ended(self) -> None:
        """A run that was taken for dead has lost the right to create tasks: another one may be creating them by now."""
        now = time.monotonic()
        if now < self._look_again_at:
            return
        run = self.instance.get_run_by_id(self.run_id)
        if run is None or run.is_finished:
            raise RunEndedError(
                f"Run {self.run_id} was ended while it was creating tasks, so it created no more; what it created is "
                "kept. Run it again for the rest."
            )
        self._look_again_at = now + _STILL_RUNNING_SEC

    @property
    def _stopped(self) -> str | None:
        return self._report.stopped or self._limit_reached

    def _take_answer(self, decision: Decision, future: Future[tuple[str, bool]]) -> None:
        """Log what came of one request."""
        from embed_pipeline.client import AmbiguousCreateError, RetryLaterError, culprit_of

        key = decision.candidate.key
        try:
            task_id, adopted = future.result()
        except AmbiguousCreateError as error:
            self._report.settled = False
            self._report.failed[key] = str(error)
        except RunEndedError as error:
            self._report.settled = False
            self._report.stopped = self._report.held[key] = str(error)
        except RetryLaterError as error:
            self._limit_reached = self._report.held[key] = str(error)
        except EmbedPipelineError as error:
            if self._hindrances.hindered_by(error):
                self._report.stopped = self._report.held[key] = str(error)
            elif culprit_of(error) == "media":
                self._refuse(key, decision.candidate.fingerprint, str(error))
            else:
                self._report.failed[key] = str(error)
        except Exception as error:
            # Whether the task was created is not known; the next run looks for it before it creates another.
            self._report.settled = False
            self._report.failed[key] = unexpected(error)
            self.log(f"{key}: {traceback_of(error)}")
        else:
            self._hindrances.passed()
            self._log_task(self._record(decision, task_id, datetime.now(UTC), adopted=adopted))

    def _follow(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if decision.action is not Action.FOLLOW or decision.follows is None:
                continue
            key, leader = decision.candidate.key, decision.follows
            if leader in self._report.tasks:
                file = self._files[key]
                self._log_task(
                    replace(self._report.tasks[leader], media=key, how="re-attached", media_uri=without_query(file.uri))
                )
            elif leader in self._report.held:
                self._report.held[key] = self._report.held[leader]
            elif leader in self._refused:
                self._refuse(key, decision.candidate.fingerprint, self._report.failed[leader])
            else:
                self._report.failed[key] = self._report.failed.get(leader, decision.reason)

    def _record(self, decision: Decision, task_id: str, submitted_at: datetime, *, adopted: bool) -> TaskRecord:
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
            media_uri=without_query(self._files[candidate.key].uri),
            settings=self.settings,
        )

    def _log_task(self, record: TaskRecord, *, media_version: str | None = None) -> None:
        self.log_event(
            dg.AssetMaterialization(
                self.names.embedding_tasks,
                partition=record.media,
                metadata=record.metadata(),
                tags=version_tags(
                    record.version,
                    self.code_version,
                    (
                        self.names.media_files,
                        media_version or record.fingerprint,
                        self._media_event_ids.get(record.media),
                    ),
                ),
            )
        )
        self._report.tasks[record.media] = record

    def _refuse(self, key: str, fingerprint: str, message: str) -> None:
        """Nothing was created for this content, and asking again would not change that."""
        self._report.failed[key] = message
        self._refused.add(key)
        self.log_event(outcome_observation(self.names, key, Outcome.refusal(fingerprint, self.terms), message))
