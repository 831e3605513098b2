"""Submission: give each media file a task, and pay for no content twice.

What takes long comes first and holds nothing: fingerprints and headers. Then contents are claimed a few at a time,
just before their requests are sent, and each answer is recorded the moment it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from embed_pipeline.errors import EmbedPipelineError, MediaError, UnplayableMediaError
from embed_pipeline.ledger import Claim, Claimed, ClaimOutcome, Content, Limits, MediaRow, Step, TaskRow
from embed_pipeline.ledger.states import SERVING, TaskState
from embed_pipeline.ledger.tasks import Ask
from embed_pipeline.pipeline.context import (
    CircuitBreaker,
    PipelineContext,
    Report,
    Unreported,
    describe_exception,
    report_nothing,
    traceback_of,
    traffic_since,
    working,
)
from embed_pipeline.pipeline.discover import content_token, facts_of, import_results
from embed_pipeline.pipeline.plan import in_sets, over_a_limit, probe_all, refusal
from embed_pipeline.pipeline.recover import IN_DOUBT, discard_upload, recover
from embed_pipeline.pipeline.settings import backoff_sec
from embed_pipeline.pipeline.sources import delivery_for, source_of, typed_request, upload, url_or_data

if TYPE_CHECKING:
    from embed_pipeline.client import (
        AmbiguousCreateError,
        ClientStats,
        MediaSource,
        RetryLaterError,
        TasksCreateResponse,
    )
    from embed_pipeline.media import MediaFile

# Claims are few: a run that waits for a limit holds nothing that another one could do.
_CLAIMS_PER_WORKER = 2
_LONGEST_LIMIT_WAIT_SEC = 1.0
_LONGEST_PAUSE_SEC = 120.0
_PAUSES_WITHOUT_PROGRESS = 5
# A fault of one file's upload or request that may pass is tried again within the run, after these waits.
_RETRY_AFTER_SEC = (1.0, 4.0, 15.0)
# A request that was answered with an error leaves a task in the list within seconds; one that was not answered may be
# carried out for minutes, and is left to the next tick.
_SHORT_DOUBT_SEC = 20.0
# A gateway's answer, while what is behind it may go on.
_GATEWAY_TIMEOUTS = frozenset({504, 524})
_DEFERRED_SEC = 30.0
_LIMIT_SEC = 600.0
_LONGEST_BACKOFF_SEC = 3600.0


class NotSentError(EmbedPipelineError):
    """The request was not sent: another run owns its claim by now, or this one sends nothing any more."""


@dataclass
class SubmissionReport:
    """Outcome of a submission, by partition key.

    Args:
        created: Tasks created.
        adopted: Tasks found in the platform's list after a run died, or a request's outcome was unknown.
        attached: Media files that a task served already.
        deferred: Why others got no task for now.
        failed: Why others got no task.
        stopped: Why the run sent no more requests, where something stands in the way of them all.
        minutes: Media minutes of the tasks that were created or adopted.
        traffic: Requests, retries and waits.
    """

    created: dict[str, str] = field(default_factory=dict)
    adopted: dict[str, str] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    minutes: float = 0.0
    traffic: ClientStats | None = None

    def __str__(self) -> str:
        return (
            f"{len(self.created)} tasks created ({self.minutes:.1f} media minutes), {len(self.attached)} attached, "
            f"{len(self.adopted)} adopted, {len(self.deferred)} deferred, {len(self.failed)} failed."
        )

    def give_up_deferred(self) -> None:
        """Count what was deferred as failed: what a person asked for by hand, nobody else asks for again."""
        for key, reason in self.deferred.items():
            self.failed[key] = f"{reason}. Nothing was created; ask for it again when there is room."
        self.deferred.clear()


def submit(
    pipeline: PipelineContext,
    keys: Sequence[str],
    *,
    ask: Ask = "due",
    run_id: str | None = None,
    report: Report = report_nothing,
    log: Callable[[str], None] = lambda _: None,
) -> SubmissionReport:
    """Give each of some media files a task.

    Args:
        pipeline: The pipeline, with a client.
        keys: Partition keys.
        ask: `due` for what is due by itself, `failed` also for what failed for good, `force` for all of it.
        run_id: The run, or the first of its re-executions.
        report: Called with the changes that the run is to report, in the calling thread.
        log: Called with what is worth reading in the run's log.

    Returns:
        What was done; what could not be done now is in it, and nothing is lost.

    Raises:
        LedgerError: The ledger cannot be reached.
        DatasetError: The dataset cannot be read, or is another pipeline's.
    """
    import_results(pipeline)
    run = _Submission(pipeline, ask, run_id or str(uuid4()), report, log)
    client, size = pipeline.connected(), pipeline.policy.partitions_per_run
    before = client.stats
    with working(pipeline, run.run_id, run.owner):
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            rows = pipeline.ledger.rows(pipeline.target, part)
            tries = {key: rows[key].interruptions if key in rows else 0 for key in part}
            for some in in_sets(tries, size):
                if run.report.stopped:
                    run.report.deferred.update(dict.fromkeys(some, run.report.stopped))
                else:
                    run.submit(some)
    run.report.traffic = traffic_since(before, client.stats, waited_sec=run.paused_sec)
    return run.report


@dataclass
class _Job:
    """A content that is to be submitted, with the media files that hold it.

    Args:
        content: The content.
        file: One of the files.
        minutes: Media minutes; None where the length is not known.
        keys: The partition keys of all of them.
        claimed: The claim, from when it is given to when its answer is recorded.
        tries: How often it was tried in vain in this run.
        not_before: When it is tried next, by the monotonic clock.
        upload: Whether this run has begun to upload it, or has done so.
    """

    content: Content
    file: MediaFile
    minutes: float | None
    keys: list[str]
    claimed: TaskRow | None = None
    tries: int = 0
    not_before: float = 0.0
    upload: Literal["begun", "done"] | None = None

    @property
    def claim(self) -> TaskRow:
        """The claim, which the run must have."""
        if self.claimed is None:
            raise RuntimeError(f"{self.keys[0]} is not claimed")
        return self.claimed


class _Submission:
    """One run's submission."""

    def __init__(
        self, pipeline: PipelineContext, ask: Ask, run_id: str, report: Report, log: Callable[[str], None]
    ) -> None:
        self.pipeline, self.ask, self.run_id, self.log = pipeline, ask, run_id, log
        self.owner = uuid4().hex
        self.report = SubmissionReport()
        self.paused_sec = 0.0
        self._unreported = Unreported(report)
        self._breaker = CircuitBreaker()
        self._pauses = 0
        self._files: dict[str, MediaFile] = {}
        self._waits: dict[str, float | None] = {}
        self._served: set[str] = set()
        self._own: set[str] = set()

    def submit(self, keys: Sequence[str]) -> None:
        """Submit one part of the run's media files."""
        pipeline, ledger = self.pipeline, self.pipeline.ledger
        ledger.media.begin_work(pipeline.name, keys, run_id=self.run_id, lease_sec=pipeline.policy.lease_sec)
        self._own = set(keys)
        self._look_up(keys)
        rows = ledger.rows(pipeline.target, keys)
        jobs = self._jobs(rows, [key for key in keys if key in self._files and key in rows])
        self._carry_out(self._recover(jobs))
        self._finish(keys)
        self._unreported.report_all()

    # What is to be done.

    def _look_up(self, keys: Sequence[str]) -> None:
        """Read the files and their contents, and record what changed since discovery looked."""
        library, ledger, target = self.pipeline.library, self.pipeline.ledger, self.pipeline.target
        found: dict[str, MediaFile] = {}
        missing: dict[str, str] = {}
        for key in keys:
            try:
                found[key] = library.file(key)
            except MediaError as error:
                missing[key] = str(error)
        fingerprints = library.fingerprints(
            list(found.values()), on_problem=lambda file, error: self._fail([file.key], str(error))
        )
        self._files = {key: file for key, file in found.items() if key in fingerprints}
        facts = [facts_of(file, fingerprints[key], content_token(file)) for key, file in self._files.items()]
        self._unreported.add(ledger.media.record(target, facts, run_id=self.run_id))
        rows = ledger.rows(target, missing)
        for key, message in missing.items():
            row = rows.get(key)
            if row is not None and row.is_gone and row.task_id is not None:
                # Asking for all files must not fail for one that vanished: its task is reported again.
                self.report.attached[key] = row.task_id
            else:
                self._fail([key], message)

    def _jobs(self, rows: dict[str, MediaRow], keys: Sequence[str]) -> list[_Job]:
        """Return what needs a task: open those files, and refuse what the platform would refuse."""
        pipeline, ledger, target = self.pipeline, self.pipeline.ledger, self.pipeline.target
        refused: dict[str, str] = {}
        wanted = [key for key in keys if self._needs_task(rows[key])]
        tolerated = pipeline.policy.interruptions_tolerated
        for key in wanted:
            if rows[key].interruptions >= tolerated:
                refused[key] = (
                    f"{tolerated} runs died while they read this file, the last ones alone with it. Look at their "
                    "logs; retry it by hand when that is mended."
                )
        minutes = self._probe([key for key in wanted if key not in refused], refused)
        rows |= ledger.rows(target, minutes)  # what they really hold may want other settings
        jobs: dict[Content, _Job] = {}
        for key in wanted:
            if key in self.report.failed or not self._needs_task(rows[key]):
                continue
            digest = target.digest(self._files[key].media_type)
            content = Content(rows[key].fingerprint, digest, target.platform)
            jobs.setdefault(content, _Job(content, self._files[key], minutes.get(key), [])).keys.append(key)
        for content, job in list(jobs.items()):
            if (reason := refused.get(job.keys[0])) is not None:
                self._refuse(jobs.pop(content), reason)
        return list(jobs.values())

    def _needs_task(self, row: MediaRow) -> bool:
        """Return whether a content may get a task; the claim decides."""
        if row.step in {Step.SUBMIT, Step.RECOVER}:
            return True
        return self.ask == "force" or (self.ask == "failed" and row.step in {Step.GIVE_UP, Step.BACK_OFF})

    def _probe(self, keys: Sequence[str], refused: dict[str, str]) -> dict[str, float]:
        """Read the headers of some files; return their minutes, and add why some are refused."""
        pipeline, media = self.pipeline, self.pipeline.ledger.media
        media.count_try(pipeline.name, keys)
        types: dict[str, tuple[str, float | None]] = {}
        minutes: dict[str, float] = {}
        for file, found in probe_all(pipeline.library, [self._files[key] for key in keys], pipeline.concurrency):
            if isinstance(found, UnplayableMediaError):
                refused[file.key] = str(found)
            elif isinstance(found, MediaError):
                self._fail([file.key], str(found))
            else:
                media_type = self._files[file.key].media_type if found.has_video else "audio"
                self._files[file.key] = replace(file, media_type=media_type)
                types[file.key] = (media_type, found.duration_sec)
                minutes[file.key] = pipeline.settings.embedded_minutes(found.duration_sec)
                if (why := refusal(found, file.size, pipeline.policy)) is not None:
                    refused[file.key] = why[1]
        media.set_type(pipeline.name, types)
        return minutes

    def _refuse(self, job: _Job, reason: str) -> None:
        job.minutes = None  # it costs nothing, so no limit stands in its way
        outcome = self._claim([job])[job.content]
        if isinstance(outcome, Claimed):
            job.claimed = outcome.task
            self._end(job, reason)
        else:
            self._take_refusal(job, outcome)

    def _recover(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Find the tasks of requests without an answer; return the jobs that still need one."""
        from embed_pipeline.client import ApiError

        pipeline, left = self.pipeline, {job.content: job for job in jobs}
        lapsed = [
            row
            for row in pipeline.ledger.tasks.lapsed_claims(pipeline.platform)
            if row.sent_at is not None and (row.pipeline == pipeline.name or row.content in left)
        ]
        if not lapsed:
            return list(jobs)
        try:
            found = recover(pipeline, lapsed, owner=self.owner, run_id=self.run_id, own=self._own, log=self.log)
        except ApiError as error:
            for content in {row.content for row in lapsed} & left.keys():
                self._defer(left.pop(content), str(error), _DEFERRED_SEC)
            if self._breaker.trips_on(error):
                self._stop(str(error))
            return list(left.values())
        self._unreported.add(found.changes)
        for row in found.cleared:
            pipeline.ledger.tasks.release(row)
        for row in (row for row in lapsed if row.content in left):
            if row.id in found.adopted:
                self._count(left.pop(row.content), found.adopted[row.id], adopted=True)
            elif row.id in found.in_doubt:
                self._defer(left.pop(row.content), IN_DOUBT, found.in_doubt[row.id])
        # What cannot be told at all has failed by now, and the claim decides.
        return list(left.values())

    # How it is done.

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        """Claim and create a few at a time, until all are dealt with."""
        waiting, in_doubt, concurrency = list(jobs), list[_Job](), self.pipeline.concurrency
        most = _CLAIMS_PER_WORKER * concurrency
        under_way: dict[Future[TasksCreateResponse], _Job] = {}
        with ThreadPoolExecutor(concurrency) as pool:
            try:
                while under_way or (waiting and not self.report.stopped):
                    pause = None  # until an answer is there
                    if not self.report.stopped:
                        # Several are claimed in one transaction, before the workers run out of them.
                        if len(under_way) <= most - concurrency // 2:
                            for job in self._start(waiting, most - len(under_way)):
                                under_way[pool.submit(self._create, job)] = job
                        if waiting and len(under_way) < most:
                            pause = max(min(job.not_before for job in waiting) - time.monotonic(), 0.0)
                    if not under_way and pause is not None:
                        self._unreported.report_all()
                        self.paused_sec += pause
                        time.sleep(pause)
                    # What was answered is recorded before anything else is reported, which takes longer.
                    timeout = 0.0 if self._unreported else pause
                    done = wait(under_way, timeout=timeout, return_when=FIRST_COMPLETED).done
                    self._take_answers([(under_way.pop(future), future) for future in done], waiting, in_doubt)
                    self._unreported.report_some()
            except BaseException:
                self._end_early(under_way)
                raise
        for job in waiting:
            self._defer(job, str(self.report.stopped), None)
        self._settle_doubt(in_doubt)

    def _start(self, waiting: list[_Job], room: int) -> list[_Job]:
        """Claim as many of those that wait as there is room for; return those whose claim was given."""
        ready = [job for job in waiting if job.not_before <= time.monotonic()][:room]
        if not ready:
            return []
        waiting[:] = [job for job in waiting if job not in ready]
        outcomes = self._claim(ready)
        for job in ready:
            outcome = outcomes[job.content]
            if isinstance(outcome, Claimed):
                job.claimed = outcome.task
            else:
                self._take_refusal(job, outcome)
        return [job for job in ready if job.claimed is not None]

    def _end_early(self, under_way: dict[Future[TasksCreateResponse], _Job]) -> None:
        """Record what comes of the requests under way, though the run ends."""
        self._stop("the run was ended")
        for future in under_way:
            future.cancel()
        try:
            for future, job in under_way.items():
                if future.cancelled():
                    self._release(job)
                else:
                    self._take_answers([(job, future)], [], [])
            self._unreported.report_all()
        except EmbedPipelineError as error:
            self.log(f"The run ends without a record of all that it did, which the next one looks for. {error}")

    def _claim(self, jobs: Sequence[_Job]) -> dict[Content, Claimed | ClaimOutcome]:
        pipeline, policy = self.pipeline, self.pipeline.policy
        claims = []
        for job in jobs:
            delivery = delivery_for(job.file, pipeline.delivery, pipeline.platform)
            about = {"fingerprint": job.content.fingerprint, "digest": job.content.settings_digest}
            url, filename = source_of(job.file, delivery, pipeline.library, **about)
            settings = pipeline.settings.spelled_out().model_dump(mode="json")
            claims.append(Claim(job.content, job.keys[0], job.file.media_type, settings, job.minutes, url, filename))
        return pipeline.ledger.tasks.claim(
            pipeline.target,
            claims,
            run_id=self.run_id,
            owner=self.owner,
            lease_sec=policy.lease_sec,
            ask=self.ask,
            limits=Limits(policy.max_minutes_per_run, policy.max_minutes_per_day),
        )

    def _take_refusal(self, job: _Job, outcome: ClaimOutcome) -> None:
        """Record why a claim was not given."""
        task = outcome.task
        if outcome.step is Step.SUBMIT:
            never = over_a_limit(job.minutes, self.pipeline.policy)
            # The next run has minutes of its own; a day's come back in time, and somebody may raise a limit.
            wait_sec = None if never is None and "per_run" in str(outcome.limit) else _LIMIT_SEC
            self._defer(job, never or str(outcome.limit), wait_sec)
        elif outcome.step is Step.RECOVER or task is None or task.state is TaskState.CLAIMED:
            self._defer(job, "another run is creating its task", self.pipeline.policy.lease_sec)
        elif outcome.step is Step.BACK_OFF:
            self._defer(job, f"attempt {task.attempt} failed ({task.error}); another one follows by itself", None)
        elif outcome.step is Step.GIVE_UP and task.task_id is None:
            self._fail(job.keys, task.error or "it was refused")
        # Otherwise its task serves it, and it is attached at the end.

    def _create(self, job: _Job) -> TasksCreateResponse:
        """Upload where that is needed, and create the task; runs in a thread of the pool."""
        pipeline, policy, claimed = self.pipeline, self.pipeline.policy, job.claim
        self._go_on()
        source = self._source(job)

        def before_attempt() -> None:
            self._go_on()
            asked_at = time.monotonic(), time.time()
            if not pipeline.ledger.tasks.mark_sent(
                claimed, lease_sec=policy.lease_sec, doubt_sec=policy.doubt_margin_sec
            ):
                raise NotSentError("another run owns its claim by now, because this one did not renew it in time")
            # A process that was frozen since then must not send: its lease may have lapsed, and another run may create.
            # The monotonic clock stands still while the machine sleeps.
            stood_still_sec = max(time.monotonic() - asked_at[0], time.time() - asked_at[1])
            if stood_still_sec > policy.lease_sec - policy.create_timeout_sec:
                raise NotSentError("the process stood still for too long just before it sent the request")

        return pipeline.connected().v_2.tasks.create(
            **typed_request(pipeline.settings.request(job.file.media_type), source),
            media_duration_sec=None if job.minutes is None else job.minutes * 60,
            request_options={
                "before_attempt": before_attempt,
                "max_wait_sec": _LONGEST_LIMIT_WAIT_SEC,
                "timeout_in_seconds": policy.create_timeout_sec,
                "resend_unknown": False,
            },
        )

    def _go_on(self) -> None:
        if self.report.stopped:
            raise NotSentError(self.report.stopped)

    def _source(self, job: _Job) -> MediaSource:
        from embed_pipeline.client import MediaSource

        pipeline, claimed = self.pipeline, job.claim
        delivery = delivery_for(job.file, pipeline.delivery, pipeline.platform)
        if delivery != "upload":
            return url_or_data(job.file, delivery, pipeline.library)
        if claimed.asset_id is not None:
            return MediaSource(asset_id=claimed.asset_id)
        # A run that died, or an earlier try, may have uploaded it without having recorded that.
        look_first = claimed.fence > 1 or claimed.attempt > 1 or job.tries > 0
        job.upload = "begun"
        asset_id, is_new = upload(
            job.file, pipeline.library, pipeline.connected(), str(claimed.source_filename), look_first=look_first
        )
        job.upload = "done" if is_new else "begun"
        job.claimed = replace(claimed, asset_id=asset_id)
        pipeline.ledger.tasks.note_upload(claimed, asset_id)
        return MediaSource(asset_id=asset_id)

    def _take_answers(
        self,
        answers: Sequence[tuple[_Job, Future[TasksCreateResponse]]],
        waiting: list[_Job],
        in_doubt: list[_Job],
    ) -> None:
        """Record what came of some requests: the tasks that were created in one transaction."""
        created: list[tuple[_Job, TasksCreateResponse]] = []
        others: list[tuple[_Job, Future[TasksCreateResponse]]] = []
        for job, answer in answers:
            if answer.exception() is None:
                created.append((job, answer.result()))
            else:
                others.append((job, answer))
        if created:
            self._breaker.reset()
            self._pauses = 0
            self._record(created)
        for job, answer in others:
            self._take_error_of(job, answer, waiting, in_doubt)

    def _take_error_of(
        self, job: _Job, answer: Future[TasksCreateResponse], waiting: list[_Job], in_doubt: list[_Job]
    ) -> None:
        """Record what came of a request that was answered with an error, or not at all."""
        from embed_pipeline.client import AmbiguousCreateError, RetryLaterError

        tasks = self.pipeline.ledger.tasks
        try:
            answer.result()
        except RetryLaterError as limit:
            self._pause(job, limit, waiting)
        except AmbiguousCreateError as error:
            doubt_sec = self._doubt_sec(error)
            tasks.leave_in_doubt(job.claim, doubt_sec=doubt_sec)
            job.not_before = time.monotonic() + doubt_sec
            in_doubt.append(job)
            if self._breaker.trips_on(error):
                self._stop(str(error))
        except NotSentError as error:
            claimed = job.claim
            self._defer(job, str(error), _DEFERRED_SEC)
            if not self._release(job) and job.upload == "done":
                self._discard_needless(claimed)
        except EmbedPipelineError as error:
            self._take_error(job, error, waiting)
        except Exception as error:
            # It is not known whether anything was sent.
            tasks.leave_in_doubt(job.claim, doubt_sec=self._full_doubt_sec)
            self.log(f"{job.keys[0]}: {traceback_of(error)}")
            self._fail(job.keys, describe_exception(error))

    @property
    def _full_doubt_sec(self) -> float:
        return self.pipeline.policy.create_timeout_sec + self.pipeline.policy.doubt_margin_sec

    def _doubt_sec(self, error: AmbiguousCreateError) -> float:
        """Return for how long the platform may still carry out a request."""
        if error.status_code in _GATEWAY_TIMEOUTS:
            return self._full_doubt_sec
        return min(error.in_doubt_sec, self._full_doubt_sec)

    def _record(self, answers: Sequence[tuple[_Job, TasksCreateResponse]]) -> None:
        """Record tasks that were created, or found by the client after an answer was lost."""
        pipeline, tasks = self.pipeline, self.pipeline.ledger.tasks
        lifetime_sec = pipeline.policy.result_lifetime_sec
        changes, recorded = tasks.created_together(
            pipeline.target,
            [(job.claim, str(task.id)) for job, task in answers if not task.adopted],
            lifetime_sec=lifetime_sec,
            run_id=self.run_id,
            own=self._own,
        )
        self._unreported.add(changes)
        for job, task in answers:
            duplicate = None
            if job.claim.id not in recorded:
                changes, duplicate = tasks.created(
                    pipeline.target,
                    job.claim,
                    task_id=str(task.id),
                    lifetime_sec=lifetime_sec,
                    origin="adopted" if task.adopted else "created",
                    run_id=self.run_id,
                    own=self._own,
                )
                self._unreported.add(changes)
            if duplicate is None:
                self._count(job, str(task.id), adopted=bool(task.adopted))
                continue
            self.log(
                f"{job.keys[0]}: task {task.id} was created although task {duplicate.serving} serves the same content: "
                "this process stood still for longer than its lease while the request was on its way."
            )

    def _take_error(self, job: _Job, error: EmbedPipelineError, waiting: list[_Job]) -> None:
        """Record that nothing was created, and try again what may succeed."""
        from embed_pipeline.client import WaitTimeoutError, culprit_of

        may_pass = not isinstance(error, MediaError | WaitTimeoutError) and job.tries < len(_RETRY_AFTER_SEC)
        if self._is_upload_gone(job, error):
            self.pipeline.ledger.tasks.note_upload(job.claim, None)
            self._try_again(job, waiting)
        elif self._breaker.trips_on(error):
            self._stop(str(error))
            self._defer(job, str(error), None)
            self._release(job)
        elif isinstance(error, UnplayableMediaError) or culprit_of(error) == "media":
            discard_upload(self.pipeline, job.claim, self.log)
            self._end(job, str(error))
        elif may_pass:
            self.log(f"{job.keys[0]}: {error} It is tried again.")
            self._try_again(job, waiting)
        else:
            self._fail(job.keys, str(error))
            self._release(job)

    def _is_upload_gone(self, job: _Job, error: EmbedPipelineError) -> bool:
        """Return whether the platform may refuse an earlier run's upload, rather than what is asked of it."""
        from embed_pipeline.client import ApiError

        is_earlier = job.claim.asset_id is not None and job.upload != "done"
        return is_earlier and isinstance(error, ApiError) and error.status_code in {400, 404}

    def _try_again(self, job: _Job, waiting: list[_Job]) -> None:
        job.not_before = time.monotonic() + _RETRY_AFTER_SEC[min(job.tries, len(_RETRY_AFTER_SEC) - 1)]
        job.tries += 1
        self._release(job)
        waiting.append(job)

    def _pause(self, job: _Job, limit: RetryLaterError, waiting: list[_Job]) -> None:
        """Wait for a limit without any claim, or defer all that is left where that takes too long."""
        wait_sec = limit.retry_after_sec or 1.0
        self._pauses += 1
        self._release(job)
        waiting.append(job)
        if wait_sec > _LONGEST_PAUSE_SEC or self._pauses > _PAUSES_WITHOUT_PROGRESS * self.pipeline.concurrency:
            until = f" until {limit.retry_at:%d %b %H:%M} UTC" if limit.retry_at else ""
            for one in waiting:
                self._defer(one, f"{limit.reason.rstrip('.') or limit.message}{until}", min(wait_sec, 3600.0))
            waiting.clear()
        for one in waiting:
            one.not_before = max(one.not_before, time.monotonic() + wait_sec)

    def _settle_doubt(self, in_doubt: Sequence[_Job]) -> None:
        """Look for the tasks of requests whose answer was an error; a longer doubt is left to the next tick."""
        soon: list[_Job] = []
        for job in in_doubt:
            left_sec = max(job.not_before - time.monotonic(), 0.0)
            if self.report.stopped or left_sec > _SHORT_DOUBT_SEC:
                self._defer(job, IN_DOUBT, left_sec)
            elif job.tries >= len(_RETRY_AFTER_SEC):
                self._fail(job.keys, "its request had no outcome several times")
            else:
                soon.append(job)
        if not soon:
            return
        self._unreported.report_all()
        time.sleep(max(max(job.not_before for job in soon) - time.monotonic(), 0.0))
        for job in soon:
            job.tries += 1
        self._carry_out(self._recover(soon))

    # What came of it.

    def _finish(self, keys: Sequence[str]) -> None:
        """Attach what tasks serve already, and record what the others wait for."""
        ledger, target, report = self.pipeline.ledger, self.pipeline.target, self.report
        unserved = [key for key in keys if key not in self._served]
        self._unreported.add(
            ledger.tasks.attach(
                target, [key for key in unserved if key not in report.failed], run_id=self.run_id, again=True
            )
        )
        rows = ledger.rows(target, unserved)
        for key in unserved:
            row = rows.get(key)
            if key in report.failed or key in report.attached:
                continue
            if row is None:
                report.failed[key] = "it is not in the ledger; let discovery find it first"
                continue
            is_attached = row.task is not None and row.task_id is not None and row.task.task_id == row.task_id
            if is_attached and row.task is not None and row.task.state in SERVING:
                report.attached[key] = str(row.task_id)
                report.deferred.pop(key, None)
            elif key in report.deferred:
                continue
            elif is_attached:
                report.attached[key] = str(row.task_id)
            elif row.step is Step.GIVE_UP:
                report.failed[key] = (row.task.error if row.task is not None else None) or "it was refused"
            else:
                report.deferred[key] = "another run is at work on it, or it changed meanwhile"
        waits = {key: (report.deferred[key], self._waits.get(key)) for key in unserved if key in report.deferred}
        failed = [key for key, row in rows.items() if key in report.failed and row.step in {Step.SUBMIT, Step.RECOVER}]
        first_sec = self.pipeline.policy.retry_backoff_sec
        for key in failed:
            wait_sec = backoff_sec(rows[key].failures + 1, first_sec, longest_sec=_LONGEST_BACKOFF_SEC)
            waits[key] = (report.failed[key], wait_sec)
        ledger.media.defer(self.pipeline.name, waits, failed=failed)

    def _count(self, job: _Job, task_id: str, *, adopted: bool) -> None:
        first, *others = job.keys
        (self.report.adopted if adopted else self.report.created)[first] = task_id
        self.report.attached.update(dict.fromkeys(others, task_id))
        self._served.update(job.keys)
        self.report.minutes += job.minutes or 0.0

    def _end(self, job: _Job, reason: str) -> None:
        self._unreported.add(
            self.pipeline.ledger.tasks.ended(
                self.pipeline.target, job.claim, TaskState.REFUSED, reason, run_id=self.run_id, own=self._own
            )
        )
        self._fail(job.keys, reason)

    def _release(self, job: _Job) -> bool:
        """Give back a claim whose request created nothing; return whether this run still had it."""
        claimed, job.claimed = job.claim, None
        nothing_uploaded = job.upload is None and claimed.asset_id is None and claimed.fence == 1
        return self.pipeline.ledger.tasks.release(claimed, discarded=nothing_uploaded)

    def _discard_needless(self, claimed: TaskRow) -> None:
        """Delete what was uploaded under a claim that another run has by now, unless that one uses it."""
        latest = self.pipeline.ledger.tasks.latest(self.pipeline.target, [claimed.content]).get(claimed.content)
        if claimed.asset_id is not None and (latest is None or latest[0].asset_id != claimed.asset_id):
            discard_upload(self.pipeline, claimed, self.log)

    def _stop(self, reason: str) -> None:
        self.report.stopped = self.report.stopped or reason

    def _defer(self, job: _Job, reason: str, wait_sec: float | None) -> None:
        for key in job.keys:
            self.report.deferred[key] = reason
            self._waits[key] = wait_sec

    def _fail(self, keys: Sequence[str], reason: str) -> None:
        self.report.failed.update(dict.fromkeys(keys, reason))
