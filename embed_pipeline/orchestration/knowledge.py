"""What the ledger knows that bears on a submission, gathered for the files at hand and for their twins by content."""

from __future__ import annotations

from collections.abc import Collection

from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.submission_plan import Candidate, Known


def gather_knowledge(ledger: Ledger, candidates: Collection[Candidate], *, platform: str, root_run_id: str) -> Known:
    """Gather what is known of some media files' contents, under whatever names these are or were.

    Args:
        ledger: The event log's view.
        candidates: The media files, with their content as it is now.
        platform: The platform that is submitted to.
        root_run_id: The run that decides, or the first of its re-executions.

    Only the events of these files and their twins are read, however many partitions there are.
    """
    wanted = {candidate.fingerprint for candidate in candidates}
    # A file that holds another content by now may have held this one before, and its task serves it.
    relevant = {candidate.key for candidate in candidates}.union(*ledger.holders(wanted).values())
    records = [record for some in ledger.task_records(relevant).values() for record in some]
    history = ledger.outcome_history(relevant)
    return Known(
        records=records,
        outcomes={subject: (logged.outcome, logged.at) for subject, logged in history.items()},
        embedded=frozenset(ledger.ever_embedded({record.version for record in records})),
        platform=platform,
        root_run_id=root_run_id,
    )
