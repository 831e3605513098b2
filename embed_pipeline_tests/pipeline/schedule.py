"""Workers that take turns at every step as a test decides: it kills them, lets them wait, and moves the time.

A step is a transaction of the ledger or a request to the platform. Each worker has a ledger, a client and an owner of
its own, as a process has, and its claims go out one at a time, so that a schedule gives the same run again.
"""

from __future__ import annotations

import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from embed_pipeline.client import EmbedClient, RetryPolicy
from embed_pipeline.client.transport import drivers
from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.errors import MediaError
from embed_pipeline.ledger import Ledger, MediaState
from embed_pipeline.ledger.database import Database
from embed_pipeline.ledger.media import MediaFiles
from embed_pipeline.ledger.outbox import Outbox
from embed_pipeline.ledger.tasks import Tasks
from embed_pipeline.media import Listing, MediaFile, MediaInfo
from embed_pipeline.pipeline import collect as collect_module
from embed_pipeline.pipeline import discover as discover_module
from embed_pipeline.pipeline import recover as recover_module
from embed_pipeline.pipeline import submit as submit_module
from embed_pipeline.pipeline.collect import collect, look_for_ended
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.discover import discover
from embed_pipeline.pipeline.recover import recover_in_passing
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy
from embed_pipeline.pipeline.submit import submit
from embed_pipeline_tests.pipeline.platform import BASE_URL, DIMENSION, Outcome, PlatformTask, ScriptedPlatform

SETTINGS = EmbeddingSettings(model_name="marengo3.5", embedding_dimension=DIMENSION, audio_options=("audio",))
POLICY = PipelinePolicy(submit_automatically=True, collect_wait_sec=0.0)
BEGIN = 1_700_000_000.0
MACHINE_AHEAD_SEC = 100.0
_STUCK_SEC = 120.0
_MOST_STEPS = 3000
_PATCHED = (submit_module, recover_module, collect_module, discover_module, drivers)
Program = Callable[[PipelineContext], object]


class ProcessKilledError(BaseException):
    """The process is gone: nothing that it does has an effect any more."""


Kind = Literal["transaction", "leave", "create", "created", "list", "listed", "upload", "uploaded", "other"]


@dataclass(frozen=True)
class Event:
    """Something that happens to a worker before one of its steps.

    Args:
        worker: Its number.
        kind: The kind of step.
        nth: Which of that kind, from 0; of all kinds where the kind is None.
        freeze_sec: Seconds for which it stands still; None where it dies.
    """

    worker: int
    kind: Kind | None
    nth: int
    freeze_sec: float | None = None


@dataclass
class Schedule:
    """What happens when.

    Args:
        seed: What the order of the workers is drawn from; None for the first one that can go on.
        step_sec: Seconds that a step takes.
        events: Deaths, and times in which a worker stands still.
        fates: Seconds until a create is carried out whose sender dies while it is on its way, or None for never.
        outcomes: What becomes of creates, one after the other; then all are created.
        delays: Seconds until a create that is late is carried out.
    """

    seed: int | None = None
    step_sec: float = 0.0
    events: list[Event] = field(default_factory=list)
    fates: list[float | None] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)


class VirtualTime:
    """The time of a test, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.scheduler: Scheduler | None = None

    def time(self) -> float:
        """Return the time of the workers' machines, which is not the database's."""
        return self.now + MACHINE_AHEAD_SEC

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if self.scheduler is None or not self.scheduler.sleep(seconds):
            self.now += seconds


class Worker:
    """A process that runs a program."""

    def __init__(self, scheduler: Scheduler, number: int) -> None:
        self.scheduler, self.number = scheduler, number
        self.waits, self.is_doomed, self.is_dead, self.is_done = False, False, False, False
        self.label, self.kind, self.request, self.wake_at = "", "other", None, 0.0
        self.taken: Counter[str | None] = Counter()
        self.problem: BaseException | None = None

    def step(
        self, label: str, kind: Kind = "other", *, request: httpx.Request | None = None, wake_at: float = 0.0
    ) -> None:
        """Wait for the turn to do something that others see."""
        if threading.current_thread().name == "embed-pipeline-leases":
            return  # it renews leases by the machine's time, of which none passes here
        condition = self.scheduler.condition
        with condition:
            if self.is_dead:
                raise ProcessKilledError
            self.scheduler.by_thread[threading.get_ident()] = self
            self.label, self.kind, self.request, self.wake_at = label, kind, request, wake_at
            self.scheduler.meet(self)
            self.waits = True
            condition.notify_all()
            assert condition.wait_for(lambda: not self.waits, timeout=_STUCK_SEC), "nobody gives this worker its turn"
            if self.is_dead:
                raise ProcessKilledError

    def run(self, program: Program, pipeline: PipelineContext) -> None:
        try:
            self.step("start")
            program(pipeline)
        except ProcessKilledError:
            pass
        except BaseException as error:
            self.problem = error
        finally:
            with self.scheduler.condition:
                self.is_done = True
                self.scheduler.condition.notify_all()


class Scheduler:
    """Gives workers their turns as a schedule says.

    Args:
        world: What they share.
        schedule: What happens when.
    """

    def __init__(self, world: SharedWorld, schedule: Schedule) -> None:
        self.world, self.schedule = world, schedule
        self.condition = threading.Condition()
        self.by_thread: dict[int, Worker] = {}
        self.steps: list[str] = []

    def sleep(self, seconds: float) -> bool:
        """Let the worker of this thread wait; return False if it is none."""
        worker = self.by_thread.get(threading.get_ident())
        if worker is None:
            return False
        worker.step(f"sleep {seconds:.1f}", wake_at=self.world.time.now + seconds)
        return True

    def play(self, programs: list[Program]) -> None:
        """Run programs side by side, each in a worker of its own, until all have ended or are dead."""
        workers = [Worker(self, number) for number in range(len(programs))]
        threads = []
        for worker, program in zip(workers, programs, strict=True):
            pipeline = self.world.pipeline(worker)
            threads.append(threading.Thread(target=worker.run, args=(program, pipeline)))
        for thread in threads:
            thread.start()
        chance = None if self.schedule.seed is None else random.Random(self.schedule.seed)
        for _ in range(_MOST_STEPS):
            with self.condition:
                is_quiet = self.condition.wait_for(lambda: all(one.waits or one.is_done for one in workers), _STUCK_SEC)
                assert is_quiet, f"a worker hangs after {self.steps[-10:]}"
                waiting = [worker for worker in workers if worker.waits]
                if not waiting:
                    break
                time = self.world.time
                time.now = max(time.now + self.schedule.step_sec, min(one.wake_at for one in waiting))
                able = [worker for worker in waiting if worker.wake_at <= time.now]
                chosen = able[0] if chance is None else chance.choice(able)
                self.note(f"worker {chosen.number}: {chosen.label}")
                if chosen.is_doomed:
                    self.note(f"worker {chosen.number} dies")
                    self.kill(chosen)
                chosen.waits = False
                self.condition.notify_all()
        else:
            raise AssertionError(f"no end: {self.steps[-20:]}")
        for thread in threads:
            thread.join(_STUCK_SEC)
        for worker in workers:
            if worker.problem is not None:
                told = "".join(traceback.format_exception(worker.problem))
                raise AssertionError(f"worker {worker.number} failed: {told}\n" + "\n".join(self.steps))

    def note(self, words: str) -> None:
        self.steps.append(f"{self.world.time.now - BEGIN:7.1f} s: {words}")

    def meet(self, worker: Worker) -> None:
        """Let happen what is to happen to a worker before a step."""
        for event in self.schedule.events:
            if (
                event.worker == worker.number
                and event.nth == worker.taken[event.kind]
                and event.kind in {None, worker.kind}
            ):
                if event.freeze_sec is None:
                    worker.is_doomed = True
                else:
                    worker.wake_at = max(worker.wake_at, self.world.time.now + event.freeze_sec)
                    self.note(
                        f"worker {worker.number} stands still for {event.freeze_sec:.0f} s before: {worker.label}"
                    )
        worker.taken[worker.kind] += 1
        worker.taken[None] += 1

    def kill(self, worker: Worker) -> None:
        """End a worker where it is; its request may be on its way already."""
        worker.is_dead = True
        if worker.request is not None:
            fate = self.schedule.fates.pop(0) if self.schedule.fates else None
            at = None if fate is None else min(self.world.time.now + fate, self.world.last_moment(self.world.time.now))
            self.world.platform.send_and_die(worker.request, at)


class SteppedDatabase(Database):
    """A database whose every transaction is a step."""

    _compiled: ClassVar[dict[str, Any]] = {}

    def __init__(self, url: str, time: VirtualTime, worker: Worker | None) -> None:
        super().__init__(url, clock=lambda: time.now)
        self._worker = worker

    def _new_engine(self) -> sa.Engine:
        engine = super()._new_engine()
        # Statements are compiled once for all workers of all schedules, and nothing has to survive a power cut.
        engine._compiled_cache = self._compiled.setdefault(engine.dialect.name, engine._compiled_cache)
        if self.is_sqlite:
            sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        return engine

    @contextmanager
    def write(self) -> Iterator[Any]:
        if self._worker is not None:
            self._worker.step("write", "transaction")
        with super().write() as opened:
            yield opened

    @contextmanager
    def read(self) -> Iterator[Any]:
        if self._worker is not None:
            self._worker.step("read", "transaction")
        with super().read() as opened:
            yield opened


class SteppedTasks(Tasks):
    """Tasks of which a worker may be kept waiting right after it got leave to send."""

    def __init__(self, database: Database, worker: Worker | None) -> None:
        super().__init__(database)
        self._worker = worker

    def mark_sent(self, *arguments: Any, **options: Any) -> bool:
        leave = super().mark_sent(*arguments, **options)
        if self._worker is not None:
            self._worker.step("has leave to send", "leave")
        return leave


class SteppedLedger(Ledger):
    """A worker's own ledger."""

    def __init__(self, url: str, time: VirtualTime, worker: Worker | None) -> None:
        self.database = SteppedDatabase(url, time, worker)
        self.media = MediaFiles(self.database)
        self.tasks = SteppedTasks(self.database, worker)
        self.outbox = Outbox(self.database)


class MemoryLibrary:
    """A media library of sound files of five seconds, each named for a content.

    Args:
        files: The content of each file.
        folder: Where contents are, for uploads.
    """

    def __init__(self, files: dict[str, str], folder: Path) -> None:
        self.files, self._folder = files, folder

    def list(self, now: float | None = None) -> Listing:
        return Listing(tuple(self.file(key) for key in sorted(self.files)))

    def file(self, key: str) -> MediaFile:
        if key not in self.files:
            raise MediaError(f"{key!r} is gone.")
        return MediaFile(key, key, self.uri(key), 1, None, self.files[key], "audio", ".wav")

    def uri(self, key: str) -> str:
        return f"https://media.example.com/{key}"

    def fingerprints(self, files: list[MediaFile], *_: Any, **__: Any) -> dict[str, str]:
        return {file.key: fingerprint_of(str(file.version)) for file in files}

    def probe(self, file: MediaFile) -> MediaInfo:
        return MediaInfo(5.0, has_video=False, has_audio=True)

    def open(self, file: MediaFile) -> BinaryIO:
        return self.local_path(file).open("rb")

    def local_path(self, file: MediaFile) -> Path:
        path = self._folder / str(file.version)
        if not path.exists():
            path.write_bytes(f"content-{file.version};".encode())
        return path

    def signed_url(self, file: MediaFile, expires_sec: int = 3600) -> str:
        return f"{file.uri}?signature={expires_sec}"


def fingerprint_of(content: str) -> str:
    return content.encode().hex().ljust(32, "0")


class SharedWorld:
    """What the workers of one test share: a library, a platform, a dataset and a ledger.

    Args:
        root: A folder.
        ledger_url: An empty ledger.
        files: The content of each file.
        delivery: How files reach the platform.
        skew_sec: How far the platform's clock is ahead.
        lag_sec: Seconds until the platform lists a new task.
        failures: How many tasks of each content fail.
    """

    def __init__(
        self,
        root: Path,
        ledger_url: str,
        files: dict[str, str],
        *,
        delivery: str = "url",
        skew_sec: float = 0.0,
        lag_sec: float = 0.0,
        failures: dict[str, int] | None = None,
    ) -> None:
        self.time, self.url, self.delivery, self.lag_sec = VirtualTime(), ledger_url, delivery, lag_sec
        self.root = root / uuid4().hex
        self.root.mkdir()
        self.library = MemoryLibrary(dict(files), self.root)
        self.platform = ScriptedPlatform(
            lambda: self.time.now,
            lambda url: self.library.files[url.partition("?")[0].rpartition("/")[2]],
            skew_sec=skew_sec,
            lag_sec=lag_sec,
            failures=dict(failures or {}),
        )
        self.dataset = EmbeddingDataset(str(self.root / "embeddings"))
        self.contents = set(files.values())
        self.schedule = Schedule()
        discover(self.pipeline(None))

    @contextmanager
    def virtual(self) -> Iterator[None]:
        """Let the pipeline and its clients live in the test's time, with one claim for each worker."""
        with pytest.MonkeyPatch.context() as patch:
            for module in _PATCHED:
                patch.setattr(module, "time", self.time)
            patch.setattr(submit_module, "_CLAIMS_PER_WORKER", 1)
            patch.setattr(collect_module, "_CONCURRENCY", 1)
            yield

    def last_moment(self, sent_at: float) -> float:
        """Return until when the platform carries out a request at the latest, so that it is listed in time."""
        return sent_at + POLICY.create_timeout_sec + POLICY.doubt_margin_sec - self.lag_sec - 1.0

    def pipeline(self, worker: Worker | None) -> PipelineContext:
        """Return the pipeline of a process, which is a worker's or the test's own."""

        def serve(request: httpx.Request) -> httpx.Response:
            is_create = request.method == "POST" and request.url.path.endswith("embed-v2/tasks")
            name, sent_at = f"{request.method} {request.url.path.removeprefix('/v1.3/')}", self.time.now
            kinds: tuple[Kind, Kind] = ("create", "created") if is_create else ("other", "other")
            if not is_create and request.url.path.endswith("embed-v2/tasks"):
                kinds = ("list", "listed")
            elif request.method == "POST" and request.url.path.endswith("assets"):
                kinds = ("upload", "uploaded")
            if worker is not None:
                worker.step(name, kinds[0], request=request)
            outcome = self._outcome(sent_at) if is_create else "created"
            delay = (
                self.schedule.delays.pop(0) if outcome in {"late", "gateway timeout"} and self.schedule.delays else 9.0
            )
            late_at = min(self.time.now + delay, self.last_moment(sent_at))
            response = self.platform.serve(request, outcome, late_at)
            if worker is not None:
                worker.step(f"answer {response.status_code} to {name}", kinds[1])
            return response

        # One look after an error leaves the rest of the time to the pipeline, as the defaults do.
        retries = RetryPolicy(max_attempts=2, initial_delay_sec=0.0, max_delay_sec=0.0, jitter=0.0)
        client = EmbedClient(
            api_key=f"key-{uuid4().hex}",
            base_url=BASE_URL,
            retries=retries,
            http_client=httpx.Client(transport=httpx.MockTransport(serve)),
        )
        client._session.monotonic = self.time.monotonic
        client._session.now = lambda: datetime.fromtimestamp(self.time.time(), tz=UTC)
        return PipelineContext(
            library=self.library,  # type: ignore[arg-type]
            dataset=self.dataset,
            ledger=SteppedLedger(self.url, self.time, worker),
            client=client,
            platform="api.example.com",
            settings=SETTINGS,
            policy=POLICY,
            delivery=self.delivery,  # type: ignore[arg-type]
            concurrency=1,
        )

    def _outcome(self, sent_at: float) -> Outcome:
        outcome = self.schedule.outcomes.pop(0) if self.schedule.outcomes else "created"
        if self.time.now <= sent_at + POLICY.create_timeout_sec:
            return outcome
        # Its sender's deadline is over; the platform may carry it out all the same, but not for ever.
        in_time = self.time.now < self.last_moment(sent_at)
        return "lost after" if in_time and outcome in {"created", "error after", "cut off", "lost after"} else "lost"

    def play(self, schedule: Schedule, programs: list[Program]) -> Scheduler:
        """Run programs side by side by a schedule, and then leave all to new processes until nothing is left to do."""
        with self.virtual():
            self.schedule = schedule
            scheduler = Scheduler(self, schedule)
            self.time.scheduler = scheduler
            scheduler.play(programs)
            self.time.scheduler, self.schedule = None, Schedule()
            self.settle(scheduler)
        return scheduler

    def settle(self, scheduler: Scheduler) -> None:
        for _ in range(12):
            self.time.now += 100.0
            self.platform.carry_out_late()
            pipeline = self.pipeline(None)
            recover_in_passing(pipeline, owner=uuid4().hex)
            submit_all(pipeline)
            collect_all(pipeline)
            states = set(pipeline.ledger.states(pipeline.target).values())
            if (
                self.platform.is_idle
                and states == {MediaState.EMBEDDED}
                and not pipeline.ledger.tasks.lapsed_claims(pipeline.platform)
            ):
                pipeline.ledger.close()
                return
            pipeline.ledger.close()
        raise AssertionError(f"not embedded in the end: {states}\n" + "\n".join(scheduler.steps))

    def tasks_of(self, content: str) -> list[PlatformTask]:
        return [task for task in self.platform.tasks if task.content == content]


def submit_all(pipeline: PipelineContext) -> None:
    """Submit what is due, as a run that a sensor asked for."""
    submit(pipeline, [file.key for file in pipeline.ledger.due(pipeline.target, waiting=True)])


def collect_all(pipeline: PipelineContext) -> None:
    """Collect what has ended, as a run that a sensor asked for."""
    collect(pipeline, [file.key for file in look_for_ended(pipeline).ended])


def tick(pipeline: PipelineContext) -> None:
    """Recover what died runs left, as a sensor's tick does."""
    recover_in_passing(pipeline, owner=uuid4().hex)
