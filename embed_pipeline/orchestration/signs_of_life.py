"""How a step that works for long shows that its process is alive: by its name, and by an event now and then.

Not every run launcher can be asked whether a run's process lives; Dagster's own cannot.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.processes import this_process

_SIGNS_BEFORE_DEATH = 5
"""Signs of life that have to fail to come, one after the other, before a run is taken for dead."""
_LONGEST_PAUSE_SEC = 60.0

_logger = logging.getLogger(__name__)


@contextmanager
def signs_of_life(
    instance: dg.DagsterInstance, run: dg.DagsterRun, names: PipelineNames, policy: PipelinePolicy
) -> Iterator[None]:
    """Show, as long as the block lasts, that a run's process is alive, whatever it waits for.

    Args:
        instance: The Dagster instance that all runs share.
        run: The run.
        names: The pipeline's names.
        policy: When a silent run is taken for dead.
    """
    instance.add_run_tags(run.run_id, process_tags(run.run_id, names))
    over = threading.Event()
    thread = threading.Thread(
        target=_show, args=(instance, run, pause_between_signs(policy), over), name="signs of life", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def process_tags(run_id: str, names: PipelineNames) -> dict[str, str]:
    """The tag that names this process as the one that works on a run.

    Args:
        run_id: The run. It is part of the tag, because a run that is executed again inherits the tags of the first.
        names: The pipeline's names.
    """
    return {names.process_tag: f"{run_id} {this_process()}"}


def process_of(run: dg.DagsterRun, names: PipelineNames) -> str:
    """The process that works on a run, as ``this_process`` named it; empty where that is not known."""
    run_id, _, process = run.tags.get(names.process_tag, "").partition(" ")
    return process if run_id == run.run_id else ""


def pause_between_signs(policy: PipelinePolicy) -> float:
    """Seconds between two signs of life."""
    return min(policy.dead_after_sec / _SIGNS_BEFORE_DEATH, _LONGEST_PAUSE_SEC)


def _show(instance: dg.DagsterInstance, run: dg.DagsterRun, pause_sec: float, over: threading.Event) -> None:
    while not over.wait(pause_sec):
        try:
            instance.report_engine_event("Still at work.", run)
        except Exception:
            # The database does not answer now; the step will notice, and the next sign may be taken.
            _logger.warning("A sign of life of run %s could not be stored.", run.run_id, exc_info=True)
