"""Which media files a retry by hand takes: all that failed or expired, or those that a person names.

A command's own environment tells it what to embed with, and need not be the daemon's. So it takes them only for what
was asked for before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.records import TaskRecord
from embed_pipeline.orchestration.settings import EmbeddingSettings
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.versions import Outcome, OutcomeState

RETRYABLE = frozenset({MediaState.FAILED, MediaState.EXPIRED})


class UnknownMediaError(EmbedPipelineError):
    """A media file was named that the pipeline does not know."""


class NothingToRetryError(EmbedPipelineError):
    """What was to be retried has not failed."""


def chosen_for_retry(states: Mapping[str, MediaState], named: Sequence[str]) -> list[str]:
    """Choose what is retried.

    Args:
        states: The state of every media file, by partition key, in key order.
        named: Partition keys or paths of media files; empty for all that failed or expired.

    Returns:
        Partition keys, in key order.

    Raises:
        UnknownMediaError: A name belongs to no media file.
        NothingToRetryError: None of them failed or expired.
    """
    if not named:
        chosen = [key for key, state in states.items() if state in RETRYABLE]
        if not chosen:
            raise NothingToRetryError(f"Nothing is to be retried: none of {len(states)} media files failed or expired.")
        return chosen
    wanted = known_keys(states, named)
    sound = [key for key in wanted if states[key] not in RETRYABLE]
    if sound:
        told = ", ".join(f"{key} is {states[key].value}" for key in sound[:5])
        raise NothingToRetryError(
            f"Only media files that failed or expired can be retried, and {told}. To pay for a new task all the same, "
            "run the job force_new_task for it, or materialize embedding_tasks with force."
        )
    return [key for key in states if key in wanted]


class OtherTermsError(EmbedPipelineError):
    """A retry would create tasks with other settings, or on another platform, than those that failed."""


def require_same_terms(blueprint: Blueprint, tasks: Mapping[str, TaskRecord], outcomes: Mapping[str, Outcome]) -> None:
    """Make sure that a retry asks for what was asked for before.

    Args:
        blueprint: What the retry would go by.
        tasks: The latest task of each media file that is retried and has one.
        outcomes: Why each of them has no result.

    Raises:
        OtherTermsError: It would ask for something else; the message tells the first difference.
    """
    for key, outcome in outcomes.items():
        task = tasks.get(key)
        if outcome.state is OutcomeState.REFUSED:
            terms = outcome.subject.rpartition(".")[2]
            told = None if terms == blueprint.terms else "other settings, another platform or other bounds of duration"
        else:
            told = None if task is None else _difference(blueprint, task)
        if told is not None:
            raise OtherTermsError(
                f"What failed of {key} was asked for under {told}. A retry asks for the same again, so nothing was "
                "created. Name the pipeline's code location (-m MODULE, -f FILE or -w WORKSPACE), or set the variables "
                "that its daemon has. If the change is meant, the job submit_new_media submits every file that it "
                "concerns."
            )


def _difference(blueprint: Blueprint, task: TaskRecord) -> str | None:
    """What a task was asked for that these settings or this platform are not; None for the same."""
    settings = blueprint.settings
    if task.platform != blueprint.client.platform:
        return f"another platform ({task.platform}, and here it is {blueprint.client.platform})"
    if task.settings_digest in {settings.digest("audio"), settings.digest("video")}:
        return None
    before = {} if task.settings is None else task.settings.spelled_out().model_dump(mode="json")
    here = settings.spelled_out().model_dump(mode="json")
    names = [name for name in EmbeddingSettings.model_fields if before and before.get(name) != here[name]]
    return "other settings" + (
        f" ({', '.join(f'{n}: {before[n]}, and here {here[n]}' for n in names)})" if names else ""
    )


def known_keys(known: Iterable[str], named: Sequence[str]) -> set[str]:
    """Find the partition keys that people mean.

    Args:
        known: Every partition key.
        named: Partition keys or paths of media files.

    Raises:
        UnknownMediaError: A name belongs to no media file; the message has the nearest that does.
    """
    from embed_pipeline.media import encode_partition_key

    keys = set(known)
    found = set()
    for name in named:
        key = name if name in keys else encode_partition_key(name.removeprefix("./"))
        if key not in keys:
            near = get_close_matches(name, sorted(keys), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else " `embed-pipeline status` lists them."
            raise UnknownMediaError(f"There is no media file {name!r} in this pipeline.{hint}")
        found.add(key)
    return found
