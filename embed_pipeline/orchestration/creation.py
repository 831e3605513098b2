"""Sending the requests that create tasks, some at once, for a run that holds the right to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.preparation import Part, Preparation
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.sources import typed_request
from embed_pipeline.orchestration.submission_plan import Decision

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, TasksCreateResponse

# How long a run may take to notice that it was ended; others wait longer before they create what it might.
_STILL_RUNNING_SEC = 1.0


class RunEndedError(EmbedPipelineError):
    """The run that is creating tasks was ended by Dagster or by a person meanwhile."""


@dataclass
class Creation:
    """Creates tasks.

    Args:
        client: The platform.
        settings: What the files are embedded with.
        preparation: Where their sources come from.
        instance: The Dagster instance, which knows whether the run still goes on.
        run_id: The run.
        concurrency: Requests under way at once.
        longest_wait_sec: How long a request may wait for a limit, in seconds.
    """

    client: EmbedClient
    settings: EmbeddingSettings
    preparation: Preparation
    instance: dg.DagsterInstance
    run_id: str
    concurrency: int
    longest_wait_sec: float

    def __post_init__(self) -> None:
        self._look_again_at = 0.0

    def create(
        self,
        part: Part,
        decisions: Sequence[Decision],
        *,
        goes_on: Callable[[], bool],
        on_answer: Callable[[Decision, Future[TasksCreateResponse]], None],
    ) -> None:
        """Create tasks; each answer is taken before a further request takes its place.

        Args:
            part: What the decisions are about.
            decisions: What to create, in order.
            goes_on: Asked before each further request whether to send it.
            on_answer: Told in the calling thread what came of each request.
        """
        self._look_again_at = 0.0
        waiting = list(reversed(decisions))
        under_way: dict[Future[TasksCreateResponse], Decision] = {}
        # It does not return before every request has its answer, whatever happens meanwhile.
        with ThreadPoolExecutor(self.concurrency) as pool:
            while under_way or (waiting and goes_on()):
                while waiting and len(under_way) < self.concurrency and goes_on():
                    decision = waiting.pop()
                    under_way[pool.submit(self._request, part, decision)] = decision
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    on_answer(under_way.pop(future), future)

    def _request(self, part: Part, decision: Decision) -> TasksCreateResponse:
        from embed_pipeline.client import AmbiguousCreateError

        candidate = decision.candidate
        file = part.files[candidate.key]
        uploaded = part.uploads.pop(candidate.key, None)
        source = uploaded or self.preparation.source(file, candidate)
        try:
            return self.client.v_2.tasks.create(
                **typed_request(self.settings.request(file.media_type), source),
                media_duration_sec=candidate.length_sec,
                request_options={
                    # Asked after every wait for a limit, which may be long.
                    "before_attempt": self._give_way_if_ended,
                    "max_wait_sec": self.longest_wait_sec,
                },
            )
        except EmbedPipelineError as error:
            if uploaded is not None and not isinstance(error, AmbiguousCreateError | RunEndedError):
                # Nothing was made from it, so that it can serve another attempt, or be deleted.
                part.uploads[candidate.key] = uploaded
            raise

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
