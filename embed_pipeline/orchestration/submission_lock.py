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
        has_ended: Whether a run that stands before this one has ended; may end one that is dead.

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
    told = False
    try:
        while not storage.claim_concurrency_slot(key, run_id, step_key=key).is_claimed:
            holder = _free_slots_of_ended_runs(instance, key, run_id, has_ended)
            if time.monotonic() > deadline:
                raise SubmissionBusyError(
                    f"{f'Run {holder}' if holder else 'Another run'} has been creating embedding tasks for over "
                    f"{longest_wait_sec:.0f} s, and two runs may not do so at once. Run this again when it has ended; "
                    f"if its process is gone, terminate it. (The concurrency key {key} must have the limit 1.)"
                )
            if holder is None:
                # What was freed is given to whoever asks next.
                time.sleep(_ASK_AGAIN_SEC)
                continue
            if not told:
                on_wait(f"Waiting for run {holder}, which is creating embedding tasks.")
                told = True
            time.sleep(_LOOK_AGAIN_SEC)
        yield
    finally:
        storage.free_concurrency_slot_for_step(run_id, key)


def _free_slots_of_ended_runs(
    instance: dg.DagsterInstance, key: str, run_id: str, has_ended: Callable[[dg.DagsterRun], bool]
) -> str | None:
    """Free what runs that have ended still hold or wait for; the id of a live run that stands before this one."""
    info = instance.event_log_storage.get_concurrency_info(key)
    holder = None
    for other in {slot.run_id for slot in info.claimed_slots} | {step.run_id for step in info.pending_steps}:
        if other == run_id:
            continue
        run = instance.get_run_by_id(other)
        if run is None or run.is_finished or has_ended(run):
            instance.event_log_storage.free_concurrency_slots_for_run(other)
        else:
            holder = other
    return holder
