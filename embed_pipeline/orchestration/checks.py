"""The checks that people trust the dataset by: of the segments that a run wrote, and of the library's tasks as a whole.

The former are part of ``segment_embeddings`` and see what was written while it is in memory: no vector is read again.
The latter are read from the event log, at the pace of ``embeddings_table``.
"""

# No deferred annotations here: Dagster reads the class of a step's context from its signature.

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.orchestration.adoption import listed_tasks, unclaimed
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.findings import Findings
from embed_pipeline.orchestration.health import expiring_results, failed_files, stuck_tasks, tried_again_by_itself
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.open_submissions import merged, unsettled_runs
from embed_pipeline.orchestration.readiness import pending_tasks
from embed_pipeline.orchestration.signs_of_life import signs_of_life
from embed_pipeline.orchestration.states import MediaState
from embed_pipeline.orchestration.told_findings import findings_told_after
from embed_pipeline.orchestration.verdicts import position_of, problems_of, still_wrong, verdict
from embed_pipeline.orchestration.versions import task_version

# Each with what it says of a run in which all is well, and how bad it is if it is not.
SEGMENT_CHECKS: Mapping[str, tuple[str, str, dg.AssetCheckSeverity]] = {
    "vectors_sound": (
        "Every vector is finite, as long as the settings ask for, and of a norm that belongs with the others.",
        "Every vector is finite, of the right length and of a plausible norm.",
        dg.AssetCheckSeverity.ERROR,
    ),
    "offsets_sound": (
        "The segments of each option follow each other, but for gaps and overlaps that the segmentation explains.",
        "The segments of each option follow each other without gaps or overlaps.",
        dg.AssetCheckSeverity.WARN,
    ),
    "options_present": (
        "Every option and scope that was asked for is there, or is absent because the media file has no such content.",
        "Every option and scope that was asked for is there, or the media file has no such content.",
        dg.AssetCheckSeverity.WARN,
    ),
}
TASK_CHECKS: Mapping[str, tuple[str, str, dg.AssetCheckSeverity]] = {
    "no_file_failed": (
        "No media file is without segments because its task failed, expired or was refused.",
        "No media file has failed.",
        dg.AssetCheckSeverity.WARN,
    ),
    "nothing_stuck": (
        "No task has been processing for longer than stuck_after_sec.",
        "No task is stuck.",
        dg.AssetCheckSeverity.WARN,
    ),
    "no_result_about_to_expire": (
        "No result waits on the platform so long that it is about to expire (expiry_alarm_sec before it does).",
        "No result is about to expire.",
        dg.AssetCheckSeverity.ERROR,
    ),
    "no_orphaned_task": (
        "The platform has no task of a run that died which no media file claims: such a task is paid for and unused.",
        "No run that died has left tasks behind.",
        dg.AssetCheckSeverity.WARN,
    ),
}


def segment_check_specs(names: PipelineNames) -> list[dg.AssetCheckSpec]:
    """The checks of ``segment_embeddings``."""
    return [
        dg.AssetCheckSpec(name, asset=names.segment_embeddings, description=description)
        for name, (description, _, _) in SEGMENT_CHECKS.items()
    ]


def segment_check_results(
    instance: dg.DagsterInstance, names: PipelineNames, ledger: Ledger, findings: Mapping[str, Findings]
) -> Iterator[dg.AssetCheckResult]:
    """The results of a run that wrote some media files' segments; none for a run that wrote none.

    Args:
        instance: The Dagster instance, for what runs have told that came to no result of their own.
        names: The pipeline's names.
        ledger: What earlier runs found, and which media files there are.
        findings: What is wrong with what this run wrote, by partition key.
    """
    if not findings:
        return
    existing = ledger.partitions()
    latest = {
        name: ledger.latest_evaluation(dg.AssetCheckKey(names.segment_embeddings, name)) for name in SEGMENT_CHECKS
    }
    told, position = findings_told_after(instance, names, min(map(position_of, latest.values())))
    checked = {**told, **findings}
    by_check = {
        "vectors_sound": {key: found.vectors for key, found in checked.items()},
        "offsets_sound": {key: found.offsets for key, found in checked.items()},
        "options_present": {key: found.options for key, found in checked.items()},
    }
    for name, (_, fine, severity) in SEGMENT_CHECKS.items():
        found = {key: problem for key, problem in by_check[name].items() if problem is not None}
        problems = still_wrong(problems_of(latest[name]), checked=checked.keys(), found=found, existing=existing)
        yield verdict(name, problems, checked=len(checked), fine=fine, severity=severity, position=position)


def build_task_checks(blueprint: Blueprint) -> dg.AssetChecksDefinition:
    """The checks of ``embedding_tasks``, over the whole library at once."""
    names = blueprint.names

    @dg.multi_asset_check(
        name=names.task_checks,
        specs=[
            dg.AssetCheckSpec(name, asset=names.embedding_tasks, description=description)
            for name, (description, _, _) in TASK_CHECKS.items()
        ],
        can_subset=True,
        required_resource_keys={blueprint.client_key},
    )
    def embedding_task_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = {key.name for key in context.selected_asset_check_keys}
        with signs_of_life(context.instance, context.run, names, blueprint.policy):
            results = list(task_check_results(blueprint, context, wanted))
        yield from results

    return embedding_task_checks


def task_check_results(
    blueprint: Blueprint, context: dg.AssetCheckExecutionContext, wanted: Collection[str]
) -> Iterator[dg.AssetCheckResult]:
    """The results of those checks of ``embedding_tasks`` that are wanted."""
    names, policy, now = blueprint.names, blueprint.policy, datetime.now(UTC)
    ledger = Ledger(context.instance, names)
    states = ledger.states()
    awaited = pending_tasks(ledger.task_versions(), ledger.embedded_versions(), ledger.outcomes())
    pending = ledger.latest_tasks([key for key in awaited if key in states])
    failed = [key for key, state in states.items() if state in {MediaState.FAILED, MediaState.EXPIRED}]
    for name, (_, fine, severity) in TASK_CHECKS.items():
        if name not in wanted:
            continue
        match name:
            case "no_file_failed":
                logged = ledger.logged_outcomes(failed)
                tried_again = {
                    key
                    for key, one in logged.items()
                    if tried_again_by_itself(
                        one.outcome,
                        max_attempts=policy.max_attempts,
                        submit_automatically=policy.submit_automatically,
                    )
                }
                problems = failed_files(states, {key: one.message for key, one in logged.items()}, tried_again)
            case "nothing_stuck":
                problems = stuck_tasks(pending, after_sec=policy.stuck_after_sec, now=now)
            case "no_result_about_to_expire":
                problems = expiring_results(
                    pending, lifetime_sec=policy.result_lifetime_sec, alarm_sec=policy.expiry_alarm_sec, now=now
                )
            case _:
                try:
                    problems = _orphaned_tasks(blueprint, context, ledger, now)
                except EmbedPipelineError as error:
                    problems = {"the platform": f"could not be asked for its tasks: {error}"}
        yield verdict(
            name, problems, checked=len(states), fine=fine, severity=severity, asset_key=names.embedding_tasks
        )


def _orphaned_tasks(
    blueprint: Blueprint, context: dg.AssetCheckExecutionContext, ledger: Ledger, now: datetime
) -> dict[str, str]:
    """What the platform lists from the time of runs that died and no event tells of; asks nothing where none died."""
    runs = unsettled_runs(
        context.instance,
        blueprint.names,
        own_run_id=context.run.run_id,
        now=now,
        lifetime=timedelta(seconds=blueprint.policy.result_lifetime_sec),
    )
    # A run that is still submitting has not died.
    windows = merged([run.window for run in runs if run.ended_at is not None])
    if not windows:
        return {}
    with blueprint.client_resource(context.resources).client() as client:
        listed = listed_tasks(client, windows)
    claimed = ledger.told_tasks({task_version(task.id) for task in listed if task.id})
    return {
        f"task {task.id}": (
            "was created while a run that died was submitting, and no media file claims it. The next run of "
            "embedding_tasks adopts it if it fits a file that is due; if not, another program created it."
        )
        for task in unclaimed(listed, claimed)
    }
