"""Which media files a retry by hand takes: all that failed or expired, or those that a person names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.states import MediaState

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
