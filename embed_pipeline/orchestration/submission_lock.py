"""One run at a time creates tasks for a pipeline, so that two runs never pay for the same content.

It rests on the slots by which Dagster limits concurrency: claiming one is atomic in the instance's own database, for
every process that shares it. Dagster frees a finished run's slots only where that is configured, so a waiting run frees
those of runs that have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError

_LOOK_AGAIN_SEC = 0.2
_ASK_AGAIN_SEC = 0.02
# Judging takes several queries for each run that waits or holds, and each of those that wait judges.
_JUDGE_AGAIN_SEC = 5.0


class SubmissionBusyError(EmbedPipelineError):
    """Another run has been creating tasks for longer than this one was willing to wait."""


@contextmanager
def submission_lock(
    instance: dg.DagsterInstance,
    key: str,
    run_id: str,
    *,
    longest_wait_sec: float,
    on_wait: Callable[[str], None] = lambda _: None,
    has_ended: Callable[[dg.DagsterRun], bool] = lambda run: run.is_finished,
) -> Iterator[None]:
    """Hold the right to create tasks.

    Args:
        instance: The Dagster instance that all runs share.
        key: The concurrency key; one for each pipeline.
        run_id: The run that wants it.
        longest_wait_sec: How long to wait for other runs, in seconds.
        on_wait: Told once, in words, that another run is waited for.
        has_ended: Whether a run that stands before this one has ended; may end one that is dead. Asked at once, and
            again now and then; whether Dagster knows of a run's end is looked at all the time.

    Raises:
        SubmissionBusyError: Another run still holds it after ``longest_wait_sec``.
    """
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        yield
        return
    if key not in storage.get_concurrency_keys():
        storage.set_concurrency_slots(key, 1)
    deadline = time.monotonic() + longest_wait_sec
    told, judge_at = False, 0.0
    try:
        while not storage.claim_concurrency_slot(key, run_id, step_key=key).is_claimed:
            judges = time.monotonic() >= judge_at
            if judges:
                judge_at = time.monotonic() + _JUDGE_AGAIN_SEC
            holder = _free_slots_of_ended_runs(instance, key, run_id, has_ended if judges else None)
            if time.monotonic() > deadline:
                raise SubmissionBusyError(
                    f"This run has waited for its turn to create embedding tasks for over {longest_wait_sec:.0f} s, "
                    f"and {f'run {holder} stands' if holder else 'others stand'} before it. Run it again when that has "
                    f"ended; if its process is gone, terminate it. (The concurrency key {key} must have the limit 1.)"
                )
            if holder is None:
                # What was freed is given to whoever asks next.
                time.sleep(_ASK_AGAIN_SEC)
                continue
            if not told:
                on_wait(f"Waiting for run {holder}, whose turn at creating embedding tasks comes first.")
                told = True
            time.sleep(_LOOK_AGAIN_SEC)
        yield
    finally:
        storage.free_concurrency_slot_for_step(run_id, key)


def _free_slots_of_ended_runs(
    instance: dg.DagsterInstance, key: str, run_id: str, has_ended: Callable[[dg.DagsterRun], bool] | None
) -> str | None:
    """Free what runs that have ended still hold or wait for.

    Args:
        instance: The Dagster instance.
        key: The concurrency key.
        run_id: The run that wants a slot.
        has_ended: Asked of runs whose end Dagster does not know of; None to take its word.

    Returns:
        The id of a live run that stands before this one: the holder, if there is one, else another that waits.
    """
    info = instance.event_log_storage.get_concurrency_info(key)
    holders, waiting = {slot.run_id for slot in info.claimed_slots}, {step.run_id for step in info.pending_steps}
    first = None
    for other in [*(waiting - holders), *holders]:
        if other == run_id:
            continue
        run = instance.get_run_by_id(other)
        if run is None or run.is_finished or (has_ended is not None and has_ended(run)):
            instance.event_log_storage.free_concurrency_slots_for_run(other)
        else:
            first = other
    return first
