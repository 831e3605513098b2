"""The dataset as a second witness of what was paid for, for when the event log has lost its events.

Dagster drops a run's events when the run is deleted, an asset can be wiped, and an instance can be lost. The segments
stay, and their files tell the task, the content and the settings that made them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_pipeline.errors import DatasetError
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.submission_plan import Candidate, Known

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset

_COLUMNS = ["media_uri", "fingerprint", "model_name", "task_id", "created_at"]
# A content is found under its own name or the one it had before; a thousand copies need not all be looked at.
_OTHER_NAMES = 5


@dataclass(frozen=True)
class DatasetWitness:
    """Looks in the dataset for segments of media files that are about to be paid for.

    Args:
        dataset: Where segments are written.
        ledger: What is known so far; tells under which names a content was seen.
        settings: What the files are to be embedded with.
        platform: The platform that would be paid, or ``emulator``; its vectors are not those of the other.
        concurrency: Files looked for at once.
    """

    dataset: EmbeddingDataset
    ledger: Ledger
    settings: EmbeddingSettings
    platform: str
    concurrency: int

    def look(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, TaskRecord | DatasetError | None]]:
        """Look for each of these media files, several at once.

        Yields:
            Each, in order, with the task whose segments of its content the dataset has (``media`` tells under which
            name), None where it has none, or why that cannot be told.
        """
        namesakes = self.ledger.holders({candidate.fingerprint for candidate in candidates})

        def look_for(candidate: Candidate) -> TaskRecord | DatasetError | None:
            others = sorted(namesakes.get(candidate.fingerprint, set()) - {candidate.key})[:_OTHER_NAMES]
            try:
                found = (self._task_under(name, candidate) for name in [candidate.key, *others])
                return next((task for task in found if task is not None), None)
            except DatasetError as error:
                return error

        with ThreadPoolExecutor(self.concurrency) as pool:
            yield from zip(candidates, pool.map(look_for, candidates), strict=True)

    def _task_under(self, name: str, candidate: Candidate) -> TaskRecord | None:
        for file in self.dataset.find(name, candidate.settings_digest):
            table = self.dataset.read_file(file, columns=_COLUMNS)
            if table is None or not table.num_rows:
                continue
            row: dict[str, Any] = table.slice(0, 1).to_pylist()[0]
            # The platform's vectors bear its model's name, the emulator's that of their engine.
            emulated = row["model_name"] != self.settings.model_name
            if row["fingerprint"] == candidate.fingerprint and emulated == (self.platform == "emulator"):
                return TaskRecord(
                    media=name,
                    task_id=row["task_id"],
                    fingerprint=candidate.fingerprint,
                    settings_digest=candidate.settings_digest,
                    platform=self.platform,
                    submitted_at=row["created_at"],
                    attempt=1,
                    minutes=candidate.minutes,
                    how="re-attached",
                    root_run_id="",
                    media_uri=row["media_uri"],
                    settings=self.settings,
                )
        return None


def with_witnessed(known: Known, witnessed: Iterable[TaskRecord]) -> Known:
    """What is known, with the tasks whose segments the dataset was found to have.

    Args:
        known: What the ledger knows.
        witnessed: What the dataset has. A task that the ledger knows of another platform stays that platform's; one
            that it took for expired gave its result after all.
    """
    elsewhere = {record.version for record in known.records if record.platform != known.platform}
    ours = {record.version: record for record in witnessed if record.version not in elsewhere}
    return replace(
        known,
        records=[*known.records, *ours.values()],
        outcomes={version: told for version, told in known.outcomes.items() if version not in ours},
        embedded=known.embedded | ours.keys(),
    )
