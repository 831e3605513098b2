"""The search for tasks that runs which died have created, and no event tells of."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.orchestration.adoption import (
    Adoption,
    Sought,
    Spell,
    adoptable,
    listed_tasks,
    spells_of,
    unclaimed,
)
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.open_submissions import UnsettledRun, merged, settle_submission, unsettled_runs
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.sources import Delivery, expected_marker, former_marker, typed_request
from embed_pipeline.orchestration.submission_plan import Candidate
from embed_pipeline.orchestration.versions import task_version

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, MediaEmbeddingTask
    from embed_pipeline.media import MediaFile, MediaLibrary

# A request that was on its way when its run died may take this long to show in the list.
_LATE_ANSWER_SEC = 5.0


@dataclass
class LeftBehind:
    """Looks for tasks that were left behind.

    Args:
        names: The pipeline's names.
        instance: The Dagster instance, for the runs that did not settle.
        ledger: What is known so far.
        library: Where the media files are.
        client: The platform.
        settings: What the files are embedded with.
        lifetime: How long the platform lists a task.
        run_id: The run that looks.
        log: Told in words what is worth reading in the run's log.
    """

    names: PipelineNames
    instance: dg.DagsterInstance
    ledger: Ledger
    library: MediaLibrary
    client: EmbedClient
    settings: EmbeddingSettings
    lifetime: timedelta
    run_id: str
    log: Callable[[str], None]

    def __post_init__(self) -> None:
        self._searched: set[tuple[str, str, str]] = set()

    def look(
        self,
        candidates: Sequence[Candidate],
        files: Mapping[str, MediaFile],
        deliveries: Mapping[str, Delivery],
        *,
        now: datetime,
        in_doubt: Collection[str] = (),
    ) -> Adoption:
        """Look for tasks that serve these media files.

        A file that was looked for once is not looked for again in the time of the same runs that have ended.

        Args:
            candidates: The media files that would be submitted; each has content of its own.
            files: Every file by partition key.
            deliveries: How each reaches the platform.
            now: The time of looking.
            in_doubt: Contents for which this run itself may have created a task of which no event tells.
        """
        if not candidates:
            return Adoption()
        own = None if any(one.fingerprint in in_doubt for one in candidates) else self.run_id
        runs = unsettled_runs(self.instance, self.names, own_run_id=own, now=now, lifetime=self.lifetime)
        candidates = [one for one in candidates if any(self._is_new_in(one, run) for run in runs)]
        if not candidates:
            return Adoption()
        self._wait_for_late_answers(runs)
        tasks = self._listed(runs)
        self._searched.update((one.key, one.fingerprint, run.run_id) for one in candidates for run in runs)
        claimed = self.ledger.told_tasks({task_version(task.id) for task in tasks if task.id})
        if not unclaimed(tasks, claimed):
            self._settle(runs, tasks, claimed, now)
            return Adoption()
        adoption = adoptable(
            self._sought(candidates, files, deliveries),
            tasks,
            claimed,
            clock_offset_sec=self.client.clock_offset_sec or 0.0,
        )
        adopted = {task_version(str(task.id)) for task in adoption.found.values()}
        self._settle(runs, tasks, claimed | adopted, now)
        return adoption

    def _is_new_in(self, candidate: Candidate, run: UnsettledRun) -> bool:
        """Whether a run's time was not searched for this content, or more may have come about in it since."""
        return run.ended_at is None or (candidate.key, candidate.fingerprint, run.run_id) not in self._searched

    def _listed(self, runs: Sequence[UnsettledRun]) -> list[MediaEmbeddingTask]:
        """What the platform lists of the runs' time; its filters go by its own clock."""
        while True:
            assumed = self.client.clock_offset_sec
            windows = merged([run.window.by_a_clock_ahead(assumed or 0.0) for run in runs])
            tasks = listed_tasks(self.client, windows)
            if assumed is not None or self.client.clock_offset_sec is None:
                return tasks

    def _sought(
        self, candidates: Sequence[Candidate], files: Mapping[str, MediaFile], deliveries: Mapping[str, Delivery]
    ) -> dict[str, Sought]:
        from embed_pipeline.client import CreateTaskRequest, MediaSource

        namesakes = self.ledger.holders({candidate.fingerprint for candidate in candidates})
        keys = {candidate.key for candidate in candidates}.union(*namesakes.values())
        sightings = self.ledger.sightings(keys)
        sought = {}
        for candidate in candidates:
            file, delivery = files[candidate.key], deliveries[candidate.key]
            about = {"fingerprint": candidate.fingerprint, "digest": candidate.settings_digest}
            spells = []
            for key in {candidate.key} | namesakes.get(candidate.fingerprint, set()):
                for uri, start, end in spells_of(candidate.fingerprint, sightings.get(key, [])):
                    marker = (
                        expected_marker(file, delivery, self.library, **about)
                        if key == candidate.key
                        else former_marker(key, uri, delivery, **about)
                    )
                    if marker is not None and marker.filename is not None:
                        # The name tells the content, whenever it was uploaded.
                        spells.append(Spell(marker))
                    elif marker is not None:
                        spells.append(Spell(marker, start, end))
            # What is compared of it bears no source; a source has to be there for it to be a request.
            keywords = typed_request(self.settings.request(file.media_type), MediaSource(url=file.uri))
            sought[candidate.key] = Sought(
                CreateTaskRequest(**{name: value for name, value in keywords.items() if value is not None}),
                tuple(spells),
            )
        return sought

    def _wait_for_late_answers(self, runs: Sequence[UnsettledRun]) -> None:
        ended = max((run.ended_at for run in runs if run.ended_at is not None), default=None)
        if ended is not None and (left := ended.timestamp() + _LATE_ANSWER_SEC - time.time()) > 0:
            self.log(f"A run that was creating tasks died just now; waiting {left:.0f} s for what it had sent.")
            time.sleep(left)

    def _settle(
        self, runs: Sequence[UnsettledRun], tasks: Sequence[MediaEmbeddingTask], claimed: Collection[str], now: datetime
    ) -> None:
        """Look no more into the time of runs whose every task is known by now."""
        left = [task.created_at for task in unclaimed(tasks, claimed)]
        for run in runs:
            window = run.window.by_a_clock_ahead(self.client.clock_offset_sec or 0.0)
            if run.is_past(now) and not any(
                at is None or window.start <= at.astimezone(UTC) <= window.end for at in left
            ):
                settle_submission(self.instance, self.names, run.run_id)
