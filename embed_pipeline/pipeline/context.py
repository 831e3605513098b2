"""Context of the work: one pipeline as a value, and what every run over it needs."""

from __future__ import annotations

import hashlib
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from embed_pipeline.errors import ConfigurationError, DatasetError, EmbedPipelineError
from embed_pipeline.ledger import Ledger, LedgerError, OutboxRow, Target
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy
from embed_pipeline.pipeline.sources import Delivery

if TYPE_CHECKING:
    from embed_pipeline.client import ClientStats, EmbedClient
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.media import MediaLibrary

EMULATOR = "emulator"
Report = Callable[[Sequence[OutboxRow]], None]
"""Reports changes in the thread that calls it, and deletes them from the outbox when it is done."""


@dataclass(frozen=True)
class PipelineContext:
    """What every stage of the work gets whole: the library, the dataset, the ledger, the platform and the choices.

    Args:
        library: The media files.
        dataset: The segments.
        ledger: What is known and was paid for.
        client: The platform; None for stages that ask it nothing.
        platform: The platform's host name, or `emulator`.
        settings: What media files are embedded with.
        policy: The team's choices.
        name: Keeps several pipelines in one ledger apart; empty for one.
        delivery: How files reach the platform.
        concurrency: Requests under way at once.
    """

    library: MediaLibrary
    dataset: EmbeddingDataset
    ledger: Ledger
    client: EmbedClient | None = None
    platform: str = EMULATOR
    settings: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    policy: PipelinePolicy = field(default_factory=PipelinePolicy)
    name: str = ""
    delivery: Delivery = "auto"
    concurrency: int = 8

    @cached_property
    def target(self) -> Target:
        """The pipeline and its settings as the ledger's queries take them."""
        return Target(
            pipeline=self.name,
            audio_digest=self.settings.digest("audio"),
            video_digest=self.settings.digest("video"),
            platform=self.platform,
            config_digest=config_digest(self.settings, self.policy, self.platform),
            max_attempts=self.policy.max_attempts,
        )

    def connected(self) -> EmbedClient:
        """Return the platform's client.

        Raises:
            RuntimeError: The pipeline was made without one.
        """
        if self.client is None:
            raise RuntimeError("this pipeline was made without a client")
        return self.client

    def with_client(self, client: EmbedClient) -> Self:
        """Return the same pipeline with a client."""
        return replace(self, client=client)


def config_digest(settings: EmbeddingSettings, policy: PipelinePolicy, platform: str) -> str:
    """Return a digest of what a content is refused under: other settings, platform or bounds may take it."""
    return hashlib.sha256(f"{settings.code_version}.{platform} {policy.bounds()}".encode()).hexdigest()[:12]


def platform_of(base_url: str) -> str:
    """Return who computes the vectors: the host of an address, or `emulator` for one on this machine."""
    from urllib.parse import urlsplit

    host = urlsplit(base_url).hostname or EMULATOR
    return EMULATOR if host in {"127.0.0.1", "localhost", "::1"} else host


class Unreported:
    """Changes that a run has recorded and is still to report, in the thread that gives them.

    What is reported takes a while each, and in between the run may have something to record.

    Args:
        report: Reports them.
    """

    _AT_ONCE = 10

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rows: deque[OutboxRow] = deque()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, rows: Sequence[OutboxRow]) -> None:
        """Take changes that were recorded."""
        self._rows.extend(rows)

    def report_some(self) -> None:
        """Report the oldest few."""
        if rows := [self._rows.popleft() for _ in range(min(self._AT_ONCE, len(self._rows)))]:
            self._report(rows)

    def report_all(self) -> None:
        """Report all of them."""
        while self._rows:
            self.report_some()


def report_nothing(_rows: Sequence[OutboxRow]) -> None:
    """Leave changes in the outbox, for whoever reports them."""


@contextmanager
def working(pipeline: PipelineContext, run_id: str, owner: str) -> Iterator[None]:
    """Renew the leases of a run while it works, and end them with it.

    Args:
        pipeline: The pipeline.
        run_id: The run, which has leases on media files.
        owner: The process, which has claims.
    """
    ledger, lease_sec = pipeline.ledger, pipeline.policy.lease_sec

    def renew() -> None:
        ledger.media.renew_work(run_id=run_id, lease_sec=lease_sec)
        ledger.tasks.renew(owner, lease_sec=lease_sec)

    try:
        with _renewing(renew, lease_sec / 3):
            yield
    finally:
        # Without the ledger they lapse by themselves, and what ended the run is the error to read.
        with suppress(LedgerError):
            ledger.media.end_work(run_id=run_id)


@contextmanager
def living(pipeline: PipelineContext, run_id: str) -> Iterator[None]:
    """Hold a run's own lease while it works, whatever it works on.

    Args:
        pipeline: The pipeline.
        run_id: The run as its orchestrator knows it.
    """
    lease_sec = pipeline.policy.lease_sec

    def renew() -> None:
        pipeline.ledger.runs.renew(pipeline.name, run_id, lease_sec=lease_sec)

    renew()
    try:
        with _renewing(renew, lease_sec / 3):
            yield
    finally:
        with suppress(LedgerError):
            pipeline.ledger.runs.end(run_id)


@contextmanager
def _renewing(renew: Callable[[], None], interval_sec: float) -> Iterator[None]:
    """Renew leases now and then, in a thread."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(interval_sec):
            # The next time may reach the ledger again; a claim that lapses meanwhile is noticed before it is used.
            with suppress(EmbedPipelineError):
                renew()

    thread = threading.Thread(target=go_on, name="embed-pipeline-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class CircuitBreaker:
    """Trips when errors are not specific to one file.

    A wrong key or a spent plan trips it at once; a failing platform or connection, a wrong address, or a dataset that
    cannot be written, once it has failed several files in a row.
    """

    _IN_A_ROW = 3

    def __init__(self) -> None:
        self._failures = 0

    def reset(self) -> None:
        """Record a request that was answered, or a result that was written."""
        self._failures = 0

    def trips_on(self, error: EmbedPipelineError) -> bool:
        """Return whether to send no more requests after this error."""
        from embed_pipeline.client import culprit_of

        culprit = culprit_of(error)
        if culprit == "account" or isinstance(error, ConfigurationError):
            return True
        if culprit == "platform" or isinstance(error, DatasetError):
            self._failures += 1
            return self._failures >= self._IN_A_ROW
        return False


def traffic_since(before: ClientStats, after: ClientStats, *, waited_sec: float = 0.0) -> ClientStats:
    """Return what a client has done between two of its figures.

    Args:
        before: The earlier ones.
        after: The later ones.
        waited_sec: Further seconds that were waited for limits.
    """
    done = {one.name: getattr(after, one.name) - getattr(before, one.name) for one in fields(after)}
    return replace(after, **{**done, "waited_sec": done["waited_sec"] + waited_sec})


def describe_exception(error: Exception) -> str:
    """Return an unforeseen error in one sentence, without what an address in it may hold of a secret."""
    from embed_pipeline.redaction import redact

    words = redact(str(error)) or "without words"
    return f"an unexpected {type(error).__name__}: {words}. Its traceback is in the run's log."


def traceback_of(error: Exception) -> str:
    """Return where an error came from, for the run's log; addresses in it are cut as well."""
    from embed_pipeline.redaction import redact

    return redact("".join(traceback.format_exception(error)))
