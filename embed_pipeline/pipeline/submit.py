"""Submission: give each media file a task, and pay for no content twice.

What takes long comes first and holds nothing: fingerprints and headers. Then contents are claimed a few at a time,
just before their requests are sent, and each answer is recorded the moment it is there.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError, MediaError, UnplayableMediaError
from embed_pipeline.ledger import Claim, Claimed, ClaimOutcome, Content, Limits, MediaRow, OutboxRow, Step, TaskRow
from embed_pipeline.ledger.states import TaskState
from embed_pipeline.ledger.tasks import Ask
from embed_pipeline.pipeline.context import PipelineContext, report_nothing
from embed_pipeline.pipeline.discover import content_token, facts_of, import_results
from embed_pipeline.pipeline.plan import over_a_limit, probe_all, refusal
from embed_pipeline.pipeline.recover import discard_upload, recover
from embed_pipeline.pipeline.settings import backoff_sec
from embed_pipeline.pipeline.sources import delivery_for, source_of, typed_request, upload, url_or_data

if TYPE_CHECKING:
    from embed_pipeline.client import ClientStats, MediaSource, RetryLaterError, TasksCreateResponse
    from embed_pipeline.media import MediaFile

Report = Callable[[Sequence[OutboxRow]], None]

# Claims are few: a run that waits for a limit holds nothing that another one could do.
_CLAIMS_PER_WORKER = 2
_LONGEST_LIMIT_WAIT_SEC = 1.0
_LONGEST_PAUSE_SEC = 120.0
_PAUSES_WITHOUT_PROGRESS = 5
# A fault of one file's upload or request that may pass is tried again within the run, after these waits.
_RETRY_AFTER_SEC = (1.0, 4.0, 15.0)
# An answer that was cut off leaves a task in the list within seconds; one that is later is left to the next run.
_SHORT_DOUBT_SEC = 20.0
_DEFERRED_SEC = 30.0


class LostClaimError(EmbedPipelineError):
    """Another run owns the claim by now, so nothing may be sent."""


class CircuitBreaker:
    """Trips when errors are not specific to one file.

    A wrong key or a spent plan trips it at once; a failing platform or connection, or a wrong address, once it has
    failed several files in a row.
    """

    _IN_A_ROW = 3

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        """Record a request that was answered."""
        self._failures = 0

    def trips_on(self, error: EmbedPipelineError) -> bool:
        """Return whether to send no more requests after this error."""
        from embed_pipeline.client import culprit_of

        culprit = culprit_of(error)
        if culprit == "account" or isinstance(error, ConfigurationError):
            return True
        if culprit == "platform":
            self._failures += 1
            return self._failures >= self._IN_A_ROW
        return False


def describe_exception(error: Exception) -> str:
    """Return an unforeseen error in one sentence, without what an address in it may hold of a secret."""
    from embed_pipeline.redaction import redact

    words = redact(str(error)) or "without words"
    return f"an unexpected {type(error).__name__}: {words}. Its traceback is in the run's log."


def traceback_of(error: Exception) -> str:
    """Return where an error came from, for the run's log; addresses in it are cut as well."""
    from embed_pipeline.redaction import redact

    return redact("".join(traceback.format_exception(error)))


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
        report: Called with the changes that the run is to report, in the calling thread; it deletes them when done.
        log: Called with what is worth reading in the run's log.

    Returns:
        What was done; what could not be done now is in it, and nothing is lost.

    Raises:
        LedgerError: The ledger cannot be reached.
    """
    import_results(pipeline)
    run = _Submission(pipeline, ask, run_id or str(uuid4()), report, log)
    size = pipeline.policy.partitions_per_run
    with working(pipeline, run.run_id, run.owner):
        for start in range(0, len(keys), size):
            run.submit(keys[start : start + size])
            if run.report.stopped:
                break
    stats = pipeline.connected().stats
    run.report.traffic = replace(stats, waited_sec=stats.waited_sec + run.paused_sec)
    return run.report


@contextmanager
def working(pipeline: PipelineContext, run_id: str, owner: str) -> Iterator[None]:
    """Renew the leases of a run while it works, and end them with it."""
    ledger, lease_sec, over = pipeline.ledger, pipeline.policy.lease_sec, threading.Event()

    def renew() -> None:
        while not over.wait(lease_sec / 3):
            try:
                ledger.media.renew_work(run_id=run_id, lease_sec=lease_sec)
                ledger.tasks.renew(owner, lease_sec=lease_sec)
            except EmbedPipelineError:
                continue  # the next turn may reach it again; a claim that lapses meanwhile is noticed before it is used

    thread = threading.Thread(target=renew, name="embed-pipeline-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ledger.media.end_work(run_id=run_id)


@dataclass
class _Job:
    """A content that is to be submitted, with the media files that hold it."""

    content: Content
    file: MediaFile
    minutes: float | None
    keys: list[str]
    claimed: TaskRow | None = None
    tries: int = 0
    not_before: float = 0.0


class _Submission:
    """One run's submission."""

    def __init__(
        self, pipeline: PipelineContext, ask: Ask, run_id: str, report: Report, log: Callable[[str], None]
    ) -> None:
        self.pipeline, self.ask, self.run_id, self.log = pipeline, ask, run_id, log
        self.owner = uuid4().hex
        self.report = SubmissionReport()
        self.paused_sec = 0.0
        self._publish = report
        self._breaker = CircuitBreaker()
        self._files: dict[str, MediaFile] = {}
        self._waits: dict[str, float | None] = {}
        self._pauses = 0
        self._served: set[str] = set()
        self._own: set[str] = set()

    @property
    def _obstacle(self) -> str | None:
        return self.report.stopped

    def submit(self, keys: Sequence[str]) -> None:
        """Submit one part of the run's media files."""
        pipeline, ledger, target = self.pipeline, self.pipeline.ledger, self.pipeline.target
        ledger.media.begin_work(pipeline.name, keys, run_id=self.run_id, lease_sec=pipeline.policy.lease_sec)
        self._own = set(keys)
        self._look_up(keys)
        rows = ledger.rows(target, keys)
        jobs = self._jobs(rows, [key for key in keys if key in self._files and key in rows])
        self._carry_out(jobs)
        self._finish(keys, rows)

    def _look_up(self, keys: Sequence[str]) -> None:
        """Read the files and their contents, and record what changed since discovery looked."""
        library, missing = self.pipeline.library, {}
        found: dict[str, MediaFile] = {}
        for key in keys:
            try:
                found[key] = library.file(key)
            except MediaError as error:
                missing[key] = str(error)
        fingerprints = library.fingerprints(
            list(found.values()), on_problem=lambda file, error: self._fail(file.key, str(error))
        )
        facts = [
            facts_of(found[key], fingerprints[key], content_token(found[key])) for key in found if key in fingerprints
        ]
        self._tell(self.pipeline.ledger.media.record(self.pipeline.target, facts, run_id=self.run_id))
        self._files = {key: file for key, file in found.items() if key in fingerprints}
        self._attach_missing(missing)

    def _attach_missing(self, missing: dict[str, str]) -> None:
        """Report again the tasks of files that vanished, so that asking for all files does not fail for them."""
        rows = self.pipeline.ledger.rows(self.pipeline.target, missing)
        for key, message in missing.items():
            row = rows.get(key)
            if row is not None and row.is_gone and row.task_id is not None:
                self.report.attached[key] = row.task_id
            else:
                self._fail(key, message)

    def _jobs(self, rows: dict[str, MediaRow], keys: Sequence[str]) -> list[_Job]:
        """Sort out what needs a task, open those files, and leave out what would be refused."""
        target, settings = self.pipeline.target, self.pipeline.settings
        wanted = [key for key in keys if self._needs_task(rows[key])]
        types: dict[str, tuple[str, float | None]] = {}
        refused: dict[str, str] = {}
        minutes: dict[str, float] = {}
        files = [self._files[key] for key in wanted]
        for file, found in probe_all(self.pipeline.library, files, self.pipeline.concurrency):
            if isinstance(found, UnplayableMediaError):
                refused[file.key] = str(found)
            elif isinstance(found, MediaError):
                self._fail(file.key, str(found))
            else:
                if not found.has_video:
                    self._files[file.key] = replace(file, media_type="audio")
                types[file.key] = (self._files[file.key].media_type, found.duration_sec)
                minutes[file.key] = settings.embedded_minutes(found.duration_sec)
                if (why := refusal(found, file.size, self.pipeline.policy)) is not None:
                    refused[file.key] = why[1]
        self.pipeline.ledger.media.set_type(self.pipeline.name, types)
        retyped = [key for key, (media_type, _) in types.items() if media_type != rows[key].media_type]
        rows |= self.pipeline.ledger.rows(target, retyped)
        by_content: dict[Content, _Job] = {}
        for key in wanted:
            if key in self.report.failed or not self._needs_task(rows[key]):
                continue
            digest = target.digest(self._files[key].media_type)
            content = Content(rows[key].fingerprint, digest, target.platform)
            job = by_content.setdefault(content, _Job(content, self._files[key], minutes.get(key), []))
            job.keys.append(key)
        for content in [one for one, job in by_content.items() if job.keys[0] in refused]:
            job = by_content.pop(content)
            self._refuse(job, refused[job.keys[0]])
        return list(by_content.values())

    def _needs_task(self, row: MediaRow) -> bool:
        """Return whether a content may get a task; the claim decides."""
        if row.step in {Step.SUBMIT, Step.RECOVER}:
            return True
        if self.ask == "due":
            return False
        return self.ask == "force" or row.step in {Step.GIVE_UP, Step.BACK_OFF}

    def _refuse(self, job: _Job, reason: str) -> None:
        outcome = self._claim([job])[job.content]
        if isinstance(outcome, Claimed):
            self._end(job, outcome.task, reason)
        else:
            self._take_refusal(job, outcome)

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        """Claim and create a few at a time, until all are dealt with."""
        waiting = deque(jobs)
        in_doubt: list[_Job] = []
        under_way: dict[Future[TasksCreateResponse], _Job] = {}
        with ThreadPoolExecutor(self.pipeline.concurrency) as pool:
            try:
                while waiting or under_way:
                    pause = None if self._obstacle else self._start(pool, waiting, under_way)
                    if not under_way:
                        if self._obstacle or pause is None:
                            break
                        time.sleep(pause)
                        continue
                    done, _ = wait(under_way, timeout=pause, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._take_answer(under_way.pop(future), future, waiting, in_doubt)
            except BaseException:
                for future in under_way:
                    future.cancel()
                raise
        for job in waiting:
            self._defer(job, str(self._obstacle or "the run ended before it"), None)
            self._release(job)
        self._settle_doubt(in_doubt)

    def _start(
        self, pool: ThreadPoolExecutor, waiting: deque[_Job], under_way: dict[Future[TasksCreateResponse], _Job]
    ) -> float | None:
        """Send what can be sent; return the seconds until more can be, or None where nothing waits."""
        now = time.monotonic()
        room = _CLAIMS_PER_WORKER * self.pipeline.concurrency - len(under_way)
        ready: list[_Job] = []
        later: list[_Job] = []
        while waiting and len(ready) < room:
            job = waiting.popleft()
            (ready if job.not_before <= now else later).append(job)
        waiting.extendleft(reversed(later))
        unclaimed = [job for job in ready if job.claimed is None]
        outcomes = self._claim(unclaimed) if unclaimed else {}
        for job in ready:
            outcome = outcomes.get(job.content)
            if isinstance(outcome, ClaimOutcome):
                if not self._take_refusal(job, outcome):
                    continue
            elif outcome is not None:
                job.claimed = outcome.task
            under_way[pool.submit(self._create, job)] = job
        if not waiting:
            return None
        return max(min(job.not_before for job in waiting) - time.monotonic(), 0.05)

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

    def _take_refusal(self, job: _Job, outcome: ClaimOutcome) -> bool:
        """Record why a claim was not given; return whether a recovery gave it after all."""
        task = outcome.task
        match outcome.step:
            case Step.SUBMIT:
                self._defer(job, over_a_limit(job.minutes, self.pipeline.policy) or str(outcome.limit), None)
            case Step.RECOVER if task is not None:
                return self._recover(job, task)
            case Step.WAIT if task is None or task.state is TaskState.CLAIMED:
                self._defer(job, "another run is creating its task", self.pipeline.policy.lease_sec)
            case Step.BACK_OFF if task is not None:
                self._defer(job, f"attempt {task.attempt} failed ({task.error}); another one follows by itself", None)
            case Step.GIVE_UP if task is not None and task.task_id is None:
                for key in job.keys:
                    self.report.failed[key] = task.error or "it was refused"
            case _:
                pass  # its task serves it: attached at the end
        return False

    def _recover(self, job: _Job, task: TaskRow) -> bool:
        try:
            found = recover(
                self.pipeline,
                [task],
                owner=self.owner,
                run_id=self.run_id,
                own=self._own,
                insist=self.ask == "force",
                log=self.log,
            )
        except EmbedPipelineError as error:
            if self._breaker.trips_on(error):
                self._stop(str(error))
            self._defer(job, str(error), _DEFERRED_SEC)
            return False
        self._tell(found.changes)
        if found.cleared:
            job.claimed = found.cleared[0]
            return True
        if task.id in found.adopted:
            self._count(job, found.adopted[task.id], adopted=True)
        elif task.id in found.undecided:
            self._fail_job(job, found.undecided[task.id])
        else:
            self._defer(job, found.in_doubt.get(task.id, "another run looks for its task"), _DEFERRED_SEC)
        return False

    def _create(self, job: _Job) -> TasksCreateResponse:
        """Upload where that is needed, and create the task; runs in a thread of the pool."""
        pipeline, policy = self.pipeline, self.pipeline.policy
        claimed, client = job.claimed, pipeline.connected()
        if claimed is None:
            raise AssertionError("not claimed")
        source = self._source(job, claimed)
        doubt_sec = policy.create_timeout_sec + policy.doubt_margin_sec

        def before_attempt() -> None:
            asked_at = time.monotonic()
            if not pipeline.ledger.tasks.mark_sent(claimed, lease_sec=policy.lease_sec, doubt_sec=doubt_sec):
                raise LostClaimError("another run owns its claim by now, because this one did not renew it in time")
            # A process that was frozen since then must not send: its lease may have lapsed, and another run may create.
            if time.monotonic() - asked_at > policy.lease_sec - policy.create_timeout_sec:
                raise LostClaimError("the process stood still for too long just before it sent the request")

        return client.v_2.tasks.create(
            **typed_request(pipeline.settings.request(job.file.media_type), source),
            media_duration_sec=None if job.minutes is None else job.minutes * 60,
            request_options={
                "before_attempt": before_attempt,
                "max_wait_sec": _LONGEST_LIMIT_WAIT_SEC,
                "timeout_in_seconds": policy.create_timeout_sec,
                "resend_unknown": False,
            },
        )

    def _source(self, job: _Job, claimed: TaskRow) -> MediaSource:
        from embed_pipeline.client import MediaSource

        pipeline = self.pipeline
        delivery = delivery_for(job.file, pipeline.delivery, pipeline.platform)
        if delivery != "upload":
            return url_or_data(job.file, delivery, pipeline.library)
        if claimed.asset_id is not None:
            return MediaSource(asset_id=claimed.asset_id)
        name = str(claimed.source_filename)
        # A run that died may have uploaded it without having recorded that.
        look_first = claimed.run_id != self.run_id or claimed.tries > 1 or job.tries > 0
        asset_id = upload(job.file, pipeline.library, pipeline.connected(), name, look_first=look_first)
        pipeline.ledger.tasks.note_upload(claimed, asset_id)
        job.claimed = replace(claimed, asset_id=asset_id)
        return MediaSource(asset_id=asset_id)

    def _take_answer(
        self, job: _Job, answer: Future[TasksCreateResponse], waiting: deque[_Job], in_doubt: list[_Job]
    ) -> None:
        """Record what came of one request."""
        from embed_pipeline.client import AmbiguousCreateError, RetryLaterError

        claimed = job.claimed
        if claimed is None:
            raise AssertionError("not claimed")
        try:
            task = answer.result()
        except RetryLaterError as limit:
            self._release(job)
            self._pause(job, limit, waiting)
        except AmbiguousCreateError as error:
            doubt_sec = min(
                error.in_doubt_sec, self.pipeline.policy.create_timeout_sec + self.pipeline.policy.doubt_margin_sec
            )
            self.pipeline.ledger.tasks.leave_in_doubt(claimed, doubt_sec=doubt_sec)
            job.not_before = time.monotonic() + doubt_sec
            in_doubt.append(job)
            if self._breaker.trips_on(error):
                self._stop(str(error))
        except LostClaimError as error:
            self._defer(job, str(error), _DEFERRED_SEC)
        except EmbedPipelineError as error:
            self._take_error(job, claimed, error, waiting)
        except Exception as error:
            # It is not known whether anything was sent.
            self.pipeline.ledger.tasks.leave_in_doubt(claimed, doubt_sec=self.pipeline.policy.doubt_margin_sec)
            self.log(f"{job.keys[0]}: {traceback_of(error)}")
            self._fail_job(job, describe_exception(error))
        else:
            self._breaker.reset()
            self._pauses = 0
            self._record(job, claimed, task)

    def _record(self, job: _Job, claimed: TaskRow, task: TasksCreateResponse) -> None:
        adopted = bool(task.adopted)
        changes, duplicate = self.pipeline.ledger.tasks.created(
            self.pipeline.target,
            claimed,
            task_id=str(task.id),
            lifetime_sec=self.pipeline.policy.result_lifetime_sec,
            origin="adopted" if adopted else "created",
            run_id=self.run_id,
            own=self._own,
        )
        self._tell(changes)
        if duplicate is not None:
            self.log(
                f"{job.keys[0]}: task {task.id} was created although task {duplicate.serving} serves the same content: "
                "this process stood still for longer than its lease while the request was on its way."
            )
            return
        self._count(job, str(task.id), adopted=adopted)

    def _take_error(self, job: _Job, claimed: TaskRow, error: EmbedPipelineError, waiting: deque[_Job]) -> None:
        from embed_pipeline.client import NotFoundError, UploadError, culprit_of

        if claimed.asset_id is not None and (isinstance(error, NotFoundError) or "asset" in str(error).lower()):
            # The upload of a run that died is gone meanwhile: upload it anew.
            self.pipeline.ledger.tasks.note_upload(claimed, None)
            job.claimed = replace(claimed, asset_id=None)
            if job.tries < len(_RETRY_AFTER_SEC):
                self._again(job, waiting)
                return
        if self._breaker.trips_on(error):
            self._stop(str(error))
            self._release(job)
            self._defer(job, str(error), None)
        elif isinstance(error, UnplayableMediaError) or culprit_of(error) == "media":
            discard_upload(self.pipeline, job.claimed or claimed, self.log)
            self._end(job, claimed, str(error))
        elif job.tries < len(_RETRY_AFTER_SEC) and not isinstance(error, MediaError):
            self.log(f"{job.keys[0]}: {error} It is tried again.")
            self._again(job, waiting)
        else:
            self._release(job, discard=isinstance(error, UploadError))
            self._fail_job(job, str(error))

    def _again(self, job: _Job, waiting: deque[_Job]) -> None:
        job.not_before = time.monotonic() + _RETRY_AFTER_SEC[job.tries]
        job.tries += 1
        waiting.append(job)

    def _pause(self, job: _Job, limit: RetryLaterError, waiting: deque[_Job]) -> None:
        """Wait for a limit outside of any claim, or stop where that takes too long."""
        wait_sec = limit.retry_after_sec or 1.0
        self._pauses += 1
        if wait_sec > _LONGEST_PAUSE_SEC or self._pauses > _PAUSES_WITHOUT_PROGRESS * self.pipeline.concurrency:
            until = f" until {limit.retry_at:%d %b %H:%M} UTC" if limit.retry_at else ""
            limit_reached = f"{limit.reason.rstrip('.') or limit.message}{until}"
            self._defer(job, limit_reached, min(wait_sec, 3600.0))
            for other in waiting:
                self._release(other)
                self._defer(other, limit_reached, min(wait_sec, 3600.0))
            waiting.clear()
            return
        self.paused_sec += wait_sec
        job.not_before = time.monotonic() + wait_sec
        for other in waiting:
            self._release(other)
            other.not_before = max(other.not_before, job.not_before)
        waiting.appendleft(job)

    def _settle_doubt(self, in_doubt: Sequence[_Job]) -> None:
        """Look for the tasks of requests whose answer was cut off; a longer doubt is left to the next tick."""
        again: list[_Job] = []
        for job in in_doubt:
            claimed = job.claimed
            if claimed is None or self._obstacle or job.not_before - time.monotonic() > _SHORT_DOUBT_SEC:
                self._defer(job, "it is not known whether its task was created; it is looked for", _DEFERRED_SEC)
                continue
            time.sleep(max(job.not_before - time.monotonic(), 0.0))
            row = self.pipeline.ledger.tasks.latest(self.pipeline.target, [job.content]).get(job.content)
            if row is not None and row[1] is Step.RECOVER and self._recover(job, row[0]):
                job.not_before, job.tries = 0.0, job.tries + 1
                again.append(job)
        if again and all(job.tries <= len(_RETRY_AFTER_SEC) for job in again):
            self._carry_out(again)
        else:
            for job in again:
                self._release(job)
                self._fail_job(job, "its request had no outcome several times")

    def _finish(self, keys: Sequence[str], rows: dict[str, MediaRow]) -> None:
        """Attach what tasks serve already, and record what the others wait for."""
        ledger, target = self.pipeline.ledger, self.pipeline.target
        open_keys = [key for key in keys if key not in self._served and key not in self.report.failed]
        self._tell(ledger.tasks.attach(target, open_keys, run_id=self.run_id, again=True))
        now = ledger.rows(target, open_keys)
        for key in open_keys:
            row = now.get(key)
            if row is not None and row.task is not None and row.task_id is not None and row.task.task_id == row.task_id:
                self.report.attached[key] = row.task_id
                self.report.deferred.pop(key, None)
                self._waits.pop(key, None)
            elif key not in self.report.deferred and key not in self.report.attached:
                why = row.task.error if row is not None and row.task is not None else None
                self.report.failed[key] = why or "it is not in the ledger; let discovery find it first"
        reasons = {
            key: (self.report.deferred[key], self._waits.get(key)) for key in keys if key in self.report.deferred
        }
        first_sec = self.pipeline.policy.retry_backoff_sec
        for key in keys:
            if key in self.report.failed and (key not in now or now[key].step in {Step.SUBMIT, Step.RECOVER}):
                failures = rows[key].interruptions + 1 if key in rows else 1
                reasons[key] = (self.report.failed[key], backoff_sec(failures, first_sec))
        ledger.media.defer(self.pipeline.name, reasons)

    def _count(self, job: _Job, task_id: str, *, adopted: bool) -> None:
        first, *others = job.keys
        (self.report.adopted if adopted else self.report.created)[first] = task_id
        self.report.attached.update(dict.fromkeys(others, task_id))
        self._served.update(job.keys)
        self.report.minutes += job.minutes or 0.0

    def _end(self, job: _Job, claimed: TaskRow, reason: str) -> None:
        changes = self.pipeline.ledger.tasks.ended(
            self.pipeline.target, claimed, TaskState.REFUSED, reason, run_id=self.run_id, own=self._own
        )
        self._tell(changes)
        for key in job.keys:
            self.report.failed[key] = reason

    def _release(self, job: _Job, *, discard: bool = False) -> None:
        if job.claimed is None:
            return
        if discard or job.claimed.asset_id is not None:
            discard_upload(self.pipeline, job.claimed, self.log)
        self.pipeline.ledger.tasks.release(job.claimed)
        job.claimed = None

    def _stop(self, reason: str) -> None:
        self.report.stopped = self.report.stopped or reason

    def _defer(self, job: _Job, reason: str, wait_sec: float | None) -> None:
        for key in job.keys:
            self.report.deferred[key] = reason
            self._waits[key] = wait_sec

    def _fail_job(self, job: _Job, reason: str) -> None:
        for key in job.keys:
            self._fail(key, reason)

    def _fail(self, key: str, reason: str) -> None:
        self.report.failed[key] = reason

    def _tell(self, changes: Sequence[OutboxRow]) -> None:
        if changes:
            self._publish(changes)
