"""The versions that events carry, so that Dagster's own index and staleness tell what became of a media file.

Only ``dagster/data_version`` can be read for every partition in one query, so what must be known of all files at each
tick is written in it: the fingerprint on ``media_files``, the task on ``embedding_tasks`` and ``segment_embeddings``,
and the outcome of a task that will give no result on an observation of ``embedding_tasks``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

import dagster as dg

DATA_VERSION_TAG = "dagster/data_version"
RETIRED = "retired"
_GONE = "gone"

# Not the embedding settings: segments are of a task, and other settings that concern a file bring it another one. Were
# the settings here too, the segments of a file that they do not concern, whose task stays, would be stale for good.
SEGMENTS_CODE_VERSION = "1"

_TAG_VALUE = re.compile(r"[A-Za-z0-9_-]{1,40}")


def gone_version(told: str | None) -> str:
    """The version of a media file that vanished; it still tells the content, by which a renamed file is recognised."""
    return f"{_GONE}.{told}" if told else _GONE


def is_gone(version: str) -> bool:
    """Whether this is the version of a media file that vanished."""
    return version == _GONE or version.startswith(f"{_GONE}.")


def content_of(version: str) -> str:
    """The fingerprint in a media file's version, whether the file is there or gone."""
    return version.removeprefix(f"{_GONE}.")


def task_version(task_id: str) -> str:
    """The task id as a data version: itself where a tag can hold it, else a hash of it."""
    if _TAG_VALUE.fullmatch(task_id):
        return task_id
    return "id-" + hashlib.sha256(task_id.encode()).hexdigest()[:32]


class OutcomeState(Enum):
    """Why a task, or a submission, gives no result."""

    FAILED = "failed"  # the platform will not embed this content
    PASSING = "passing"  # it failed for a cause that may pass
    EXPIRED = "expired"  # its result is no longer there
    REFUSED = "refused"  # no task was created: the file or the request was turned down


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task that gives no result, or of a submission that made no task.

    Args:
        state: Why there is no result.
        attempt: Which attempt on this content it was, from 1.
        subject: The task's version; for a refused submission the fingerprint and the terms it was refused under.
    """

    state: OutcomeState
    attempt: int
    subject: str

    def __str__(self) -> str:
        return f"{self.state.value}.{self.attempt}.{self.subject}"

    @classmethod
    def refusal(cls, fingerprint: str, terms: str) -> Outcome:
        """The outcome of a submission that was turned down.

        Args:
            fingerprint: The content.
            terms: A digest of what it was refused under: settings, platform and bounds of duration.
        """
        return cls(OutcomeState.REFUSED, 1, f"{fingerprint}.{terms}")

    def refuses(self, version: str | None, terms: str | None = None) -> bool:
        """Whether this content was turned down: under these terms, or under whatever terms where None are given."""
        if self.state is not OutcomeState.REFUSED:
            return False
        content, _, told = self.subject.partition(".")
        return content == version and terms in {None, told}

    @classmethod
    def parse(cls, version: str) -> Outcome | None:
        """Read a data version written by ``str``; None for anything else."""
        state, _, rest = version.partition(".")
        attempt, _, subject = rest.partition(".")
        if state not in {s.value for s in OutcomeState} or not attempt.isdigit() or not subject:
            return None
        return cls(OutcomeState(state), int(attempt), subject)


def version_tags(
    data_version: str, code_version: str | None = None, upstream: tuple[dg.AssetKey, str, int | None] | None = None
) -> dict[str, str]:
    """The tags that make Dagster's staleness right for an event that an asset logs itself.

    Args:
        data_version: The version of what the event describes.
        code_version: The asset's code version, if it is a materialization.
        upstream: The upstream asset's key, the version of its partition that was used, and the storage id of the
            event that said so.
    """
    tags = {DATA_VERSION_TAG: data_version, "dagster/data_version_is_user_provided": "true"}
    if code_version is not None:
        tags["dagster/code_version"] = code_version
    if upstream is not None:
        key, version, storage_id = upstream
        name = key.to_user_string()
        tags[f"dagster/input_data_version/{name}"] = version
        tags[f"dagster/input_event_pointer/{name}"] = "NULL" if storage_id is None else str(storage_id)
    return tags
