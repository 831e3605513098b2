"""`embed-pipeline retry`: new tasks for what failed or expired, and their segments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from embed_pipeline.commands.context import CommandContext, opened
from embed_pipeline.commands.platform import platform_of
from embed_pipeline.commands.signals import interrupted_in_order
from embed_pipeline.commands.status import status_table

if TYPE_CHECKING:
    from embed_pipeline.orchestration.daemon import InProcessDaemon
    from embed_pipeline.pipeline.context import PipelineContext

_LONGEST_WAIT_SEC = 3600.0
_LOOK_AGAIN_SEC = 1.0


def run_retry(context: CommandContext, named: Sequence[str], wait: bool | None, console: Console) -> int:
    """Create new tasks for what failed or expired, in this process, and leave everything else alone.

    Args:
        context: Where the pipeline is.
        named: Partition keys or paths of media files; empty for all that failed or expired.
        wait: Whether to wait for the results and write them; None waits where the emulator runs for this command only.
        console: Where to show it.

    Returns:
        The exit code: 0 if every retried media file is embedded or has its task, 1 if any failed again, or the run did.

    Raises:
        UnknownMediaError: A name belongs to no media file.
        NothingToRetryError: Nothing that was named, or nothing at all, failed or expired.
        OtherConfigurationError: The tasks would be of other settings, or of another platform, than those that failed.
        ConfigurationError: Nothing has run here yet.
    """
    context.require_instance()
    keys = _chosen(context, named)
    with (
        interrupted_in_order(),
        platform_of(context, console) as (complete, ends_with_us),
        opened(complete) as (blueprint, instance),
    ):
        from embed_pipeline.ledger import MediaState
        from embed_pipeline.orchestration.daemon import InProcessDaemon, failure_in_words
        from embed_pipeline.orchestration.definitions import build_definitions
        from embed_pipeline.pipeline.publish import read_statuses

        # Tasks that still run are looked at again here, not waited for within a run.
        patient = replace(blueprint, policy=blueprint.policy.model_copy(update={"collect_wait_sec": 0.0}))
        daemon = InProcessDaemon(build_definitions(patient), instance, patient.names)
        job = patient.names.retry_job
        console.print(f"Retrying {len(keys)} media files in this process, as a run of the job {job}.")
        words = failure_in_words(daemon.run(job, {}, {job: {"config": {"media": keys}}}))
        with patient.pipeline(connect=False) as pipeline:
            if wait or (wait is None and ends_with_us):
                _collect(daemon, pipeline, keys)
            chosen = set(keys)
            rows = [row for row in read_statuses(pipeline) if row.media in chosen]
    console.print(status_table(rows, "What became of the retried media files"))
    if any(row.state is MediaState.PROCESSING for row in rows):
        console.print("The sensor embedding_ready_sensor collects what is processing once it is ready.")
    if words is not None:
        console.print(Text.assemble(("The run failed: ", "red"), words), soft_wrap=True)
        return 1
    return 1 if any(row.state in {MediaState.FAILED, MediaState.EXPIRED} for row in rows) else 0


def _chosen(context: CommandContext, named: Sequence[str]) -> list[str]:
    """Choose what is retried, and whether it may be, before a platform is started for it."""
    from embed_pipeline.pipeline.maintain import NothingToRetryError, chosen_for_retry, require_same_configuration

    with opened(context) as (blueprint, _), blueprint.pipeline(connect=False) as pipeline:
        try:
            return chosen_for_retry(pipeline.ledger.states(pipeline.target), named)
        except NothingToRetryError:
            # It may have failed under other settings than these.
            require_same_configuration(pipeline, named)
            raise


def _collect(daemon: InProcessDaemon, pipeline: PipelineContext, keys: Sequence[str]) -> None:
    """Collect what is ready until none of these files is processing any more."""
    from embed_pipeline.ledger import MediaState

    deadline = time.monotonic() + _LONGEST_WAIT_SEC
    while time.monotonic() < deadline:
        rows = pipeline.ledger.rows(pipeline.target, keys)
        if not any(row.state is MediaState.PROCESSING for row in rows.values()):
            return
        if not daemon.collect_ready().runs:
            time.sleep(_LOOK_AGAIN_SEC)
