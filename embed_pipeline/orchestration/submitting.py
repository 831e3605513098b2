"""What every run that may create tasks does, whichever job it belongs to: take turns, submit, settle, and say so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.dead_runs import DeadRuns
from embed_pipeline.orchestration.events import event_logger, failure, failure_in_one_sentence
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.left_for_later import files_by_reason, tell_left_for_later
from embed_pipeline.orchestration.signs_of_life import signs_of_life
from embed_pipeline.orchestration.submission import Submission
from embed_pipeline.orchestration.submission_lock import submission_lock
from embed_pipeline.orchestration.submission_report import SubmissionReport
from embed_pipeline.orchestration.traffic import traffic_in_words, traffic_numbers

_LOCK_WAIT_SEC = 3600.0
_REASONS_LOGGED = 20
_KEYS_LOGGED = 5


def submit_media(
    blueprint: Blueprint,
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    keys: Sequence[str],
    *,
    force: bool = False,
    retry_failed: bool = False,
) -> SubmissionReport:
    """Give each of these media files a task, within a run.

    Args:
        blueprint: The pipeline.
        context: The step that does it; its resources hold the client and the media library.
        keys: The partition keys of the media files.
        force: Submit even what a task serves already.
        retry_failed: Submit again what failed or expired for good.

    Returns:
        What was done, when nothing failed; what was held is in it.

    Raises:
        dg.Failure: Some media file got no task, or something stood in the way of them all. What went right is logged.
    """
    names, run_id = blueprint.names, context.run.run_id
    resource = blueprint.client_resource(context.resources)
    dead = DeadRuns(context.instance, names, blueprint.policy, context.log.warning)
    with (
        failure_in_one_sentence(),
        signs_of_life(context.instance, context.run, names, blueprint.policy),
        resource.client() as client,
    ):
        report = Submission(
            names=names,
            ledger=Ledger(context.instance, names),
            instance=context.instance,
            turn=lambda: submission_lock(
                context.instance,
                names.submission_lock,
                run_id,
                longest_wait_sec=_LOCK_WAIT_SEC,
                on_wait=context.log.info,
                has_ended=lambda run: dead.end_if_dead(run, now=datetime.now(UTC)),
            ),
            library=blueprint.library_resource(context.resources).library(),
            dataset=blueprint.dataset(context.resources),
            client=client,
            settings=blueprint.settings,
            policy=blueprint.policy,
            platform=resource.platform,
            delivery=resource.delivery,
            run_id=run_id,
            root_run_id=context.run.root_run_id or run_id,
            code_version=blueprint.task_code_version,
            terms=blueprint.terms,
            log_event=event_logger(context),
            log=context.log.info,
            concurrency=resource.concurrency,
            force=force,
            retry_failed=retry_failed,
        ).run(keys)
    if (force or retry_failed) and not report.stopped:
        report.give_up_held()
    if report.traffic is not None:
        context.log.info(traffic_in_words(report.traffic))
    if report.held:
        order = Ledger(context.instance, names).partitions()
        context.log_event(tell_left_for_later(context.instance, names, run_id, report.held, order))
    return _told(context, report)


def _told(context: dg.AssetExecutionContext | dg.OpExecutionContext, report: SubmissionReport) -> SubmissionReport:
    """The report, told in the run's log; a failure where something went wrong."""
    context.log.info(submission_headline(report))
    # A line is an event in the instance's database, so there is one for each reason, not for each file.
    for reason, keys in list(files_by_reason(report.held).items())[:_REASONS_LOGGED]:
        shown = ", ".join(keys[:_KEYS_LOGGED]) + (", ..." if len(keys) > _KEYS_LOGGED else "")
        context.log.info(f"{len(keys)} left for later ({shown}): {reason}")
    if report.failed or report.stopped:
        headline = report.stopped or submission_headline(report)
        raise failure(headline, report.failed, submission_numbers(report))
    return report


def submission_headline(report: SubmissionReport) -> str:
    """What a submission did, in one sentence."""
    return (
        f"{report.count('created')} tasks created ({report.minutes:.1f} media minutes), "
        f"{report.count('re-attached')} re-attached, {report.count('adopted')} adopted, "
        f"{len(report.held)} left for later, {len(report.failed)} failed."
    )


def submission_numbers(report: SubmissionReport) -> dict[str, Any]:
    """What a submission did, as metadata."""
    return {
        "embed_pipeline/created": report.count("created"),
        "embed_pipeline/re_attached": report.count("re-attached"),
        "embed_pipeline/adopted": report.count("adopted"),
        "embed_pipeline/held": len(report.held),
        "embed_pipeline/failed": len(report.failed),
        "embed_pipeline/minutes": round(report.minutes, 3),
        **traffic_numbers(report.traffic),
    }
