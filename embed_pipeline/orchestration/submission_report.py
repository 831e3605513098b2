"""What a submitting run did, for its log, its failure and whoever asked for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.submission_plan import minutes_spent

if TYPE_CHECKING:
    from embed_pipeline.client import ClientStats


@dataclass
class SubmissionReport:
    """What a submitting run did, by partition key.

    Args:
        tasks: The tasks that now serve the media files.
        held: Why others were left for later.
        failed: Why others got no task.
        stopped: Why the run sent no more requests, where something stands in the way of them all.
        settled: Whether every task that may have been created has its event.
        traffic: What its requests came to.
    """

    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    settled: bool = True
    traffic: ClientStats | None = None

    def give_up_held(self) -> None:
        """Count what was left for later as failed: what a person asked for by hand, nobody else asks for again."""
        for key, reason in self.held.items():
            self.failed[key] = f"{reason}. Nothing was created; ask for it again when there is room."
        self.held.clear()

    def count(self, how: str) -> int:
        """How many tasks came about in this way: created, re-attached or adopted."""
        return sum(record.how == how for record in self.tasks.values())

    @property
    def minutes(self) -> float:
        """Media minutes of the tasks that were created or adopted."""
        return minutes_spent(record for record in self.tasks.values() if record.how != "re-attached")
