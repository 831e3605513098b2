"""Checks that people trust the dataset by: its segments, its files, and the tasks of the whole library.

All are read from the ledger, which keeps what validation found when segments were written: no vector is read again.
"""

# No deferred annotations here: Dagster reads the class of a step's context from its signature.

from collections.abc import Collection, Iterator, Mapping

import dagster as dg

from embed_pipeline.ledger import MediaState
from embed_pipeline.orchestration.blueprint import Blueprint, PipelineNames
from embed_pipeline.orchestration.metadata import problem_table
from embed_pipeline.orchestration.reporting import failure_in_one_sentence
from embed_pipeline.pipeline.context import PipelineContext
from embed_pipeline.pipeline.maintain import check
from embed_pipeline.pipeline.publish import expiring, failure_advice, is_tried_again, mixed_spaces, stuck

PROBLEMS = "embed_pipeline/problems"
CHECKED = "embed_pipeline/checked"
WRONG = "embed_pipeline/media_files_with_a_problem"
ONE_SPACE = "one_vector_space"
DATASET = "dataset_matches_ledger"
_IN_THE_TABLE = 1000
_IN_THE_DESCRIPTION = 3

# Each with its kind of problem, what it says where all is well, and how bad it is if it is not.
SEGMENT_CHECKS: Mapping[str, tuple[str, str, str, dg.AssetCheckSeverity]] = {
    "vectors_sound": (
        "vectors",
        "Every vector is finite, as long as the settings ask for, and of a norm that belongs with the others.",
        "Every vector is finite, of the right length and of a plausible norm.",
        dg.AssetCheckSeverity.ERROR,
    ),
    "offsets_sound": (
        "offsets",
        "The segments of each option follow each other, but for gaps and overlaps that the segmentation explains.",
        "The segments of each option follow each other without gaps or overlaps.",
        dg.AssetCheckSeverity.WARN,
    ),
    "options_present": (
        "options",
        "Every option and scope that was asked for is there, or is absent because the media file has no such content.",
        "Every option and scope that was asked for is there, or the media file has no such content.",
        dg.AssetCheckSeverity.WARN,
    ),
    "media_covered": (
        "coverage",
        "Every result covers its media file to the end; one that was cut off or is damaged is named.",
        "Every result covers its media file to the end.",
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
        "No run that died left a request whose outcome is unknown: its task may be paid for and unused.",
        "No run that died has left a task behind.",
        dg.AssetCheckSeverity.WARN,
    ),
}


def segment_check_specs(names: PipelineNames) -> list[dg.AssetCheckSpec]:
    """Return the checks of `segment_embeddings`."""
    return [
        dg.AssetCheckSpec(name, asset=names.segment_embeddings, description=description)
        for name, (_, description, _, _) in SEGMENT_CHECKS.items()
    ]


def table_check_specs(names: PipelineNames) -> list[dg.AssetCheckSpec]:
    """Return the checks of `embeddings_table`."""
    return [
        dg.AssetCheckSpec(
            ONE_SPACE, asset=names.embeddings_table, description="All vectors of the table may be compared."
        ),
        dg.AssetCheckSpec(
            DATASET,
            asset=names.embeddings_table,
            description="Every file of segments that the ledger knows is there and opens, and there is no other.",
        ),
    ]


def segment_check_results(problems: Mapping[str, Mapping[str, str]], *, checked: int) -> Iterator[dg.AssetCheckResult]:
    """Return the results of the checks of `segment_embeddings`, over the whole library.

    Args:
        problems: What validation found, by partition key and kind.
        checked: How many media files were written by this run.
    """
    for name, (kind, _, fine, severity) in SEGMENT_CHECKS.items():
        own = {key: found[kind] for key, found in problems.items() if kind in found}
        yield check_result(name, own, checked=checked, fine=fine, severity=severity)


def one_space_result(names: PipelineNames, media_by_space: Mapping[str, int]) -> dg.AssetCheckResult:
    """Return whether all vectors of the table may be compared."""
    problem = mixed_spaces(media_by_space)
    return dg.AssetCheckResult(
        asset_key=names.embeddings_table,
        check_name=ONE_SPACE,
        passed=problem is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=problem or f"All vectors are of the space {', '.join(media_by_space) or '(none yet)'}.",
        metadata={f"embed_pipeline/media_in_{space}": count for space, count in media_by_space.items()},
    )


def dataset_check_result(names: PipelineNames, pipeline: PipelineContext) -> dg.AssetCheckResult:
    """Return whether ledger and dataset agree."""
    report = check(pipeline)
    problems = report.problems | dict.fromkeys(report.unknown, "is not known to the ledger")
    remedy = {key: f"{problem}. `embed-pipeline check --repair` mends it." for key, problem in problems.items()}
    return check_result(
        DATASET,
        remedy,
        checked=report.checked,
        fine="Every file of segments that the ledger knows is there and opens.",
        severity=dg.AssetCheckSeverity.ERROR,
        asset_key=names.embeddings_table,
    )


def build_task_checks(blueprint: Blueprint) -> dg.AssetChecksDefinition:
    """Build the checks of `embedding_tasks`, over the whole library at once."""
    names = blueprint.names

    @dg.multi_asset_check(
        name=names.task_checks,
        specs=[
            dg.AssetCheckSpec(name, asset=names.embedding_tasks, description=description)
            for name, (description, _, _) in TASK_CHECKS.items()
        ],
        can_subset=True,
        required_resource_keys=blueprint.resource_keys,
    )
    def embedding_task_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        wanted = {key.name for key in context.selected_asset_check_keys}
        with failure_in_one_sentence(), blueprint.step(context, connect=False) as pipeline:
            yield from task_check_results(names, pipeline, wanted)

    return embedding_task_checks


def task_check_results(
    names: PipelineNames, pipeline: PipelineContext, wanted: Collection[str]
) -> Iterator[dg.AssetCheckResult]:
    """Return the results of those checks of `embedding_tasks` that are wanted."""
    ledger, policy, now = pipeline.ledger, pipeline.policy, pipeline.ledger.now()
    counts = ledger.counts(pipeline.target)
    states = {MediaState.FAILED, MediaState.EXPIRED, MediaState.PROCESSING}
    rows = list(ledger.all_rows(pipeline.target, states=states))
    processing = [row for row in rows if row.state is MediaState.PROCESSING]
    for name, (_, fine, severity) in TASK_CHECKS.items():
        if name not in wanted:
            continue
        match name:
            case "no_file_failed":
                failed = [row for row in rows if row.state is not MediaState.PROCESSING]
                problems = {row.key: failure_advice(row) for row in failed if not is_tried_again(row, policy)}
            case "nothing_stuck":
                problems = _present({row.key: stuck(row, policy, now) for row in processing})
            case "no_result_about_to_expire":
                problems = _present({row.key: expiring(row, policy, now) for row in processing})
            case _:
                lapsed = ledger.tasks.lapsed_claims(pipeline.platform, name=pipeline.name)
                problems = {
                    row.key: (
                        "a run that died had sent a request for its task, and its outcome is not known yet. "
                        "embedding_ready_sensor looks for it in the platform's list: see that it is on."
                    )
                    for row in lapsed
                    if row.sent_at is not None
                }
        yield check_result(
            name,
            problems,
            checked=sum(counts.values()),
            fine=fine,
            severity=severity,
            asset_key=names.embedding_tasks,
        )


def check_result(
    name: str,
    problems: Mapping[str, str],
    *,
    checked: int,
    fine: str,
    severity: dg.AssetCheckSeverity,
    asset_key: dg.AssetKey | None = None,
) -> dg.AssetCheckResult:
    """Return the result of a check.

    Args:
        name: The check's name.
        problems: What is wrong and what to do, by partition key.
        checked: How many media files were looked at.
        fine: What there is to say where nothing is wrong.
        severity: How bad a problem is.
        asset_key: The asset, where the check stands apart from it.
    """
    shown = [f"{key}: {problem}" for key, problem in list(problems.items())[:_IN_THE_DESCRIPTION]]
    left = len(problems) - _IN_THE_DESCRIPTION
    more = [f"... and {left} more in the table of problems."] if left > 0 else []
    return dg.AssetCheckResult(
        passed=not problems,
        check_name=name,
        asset_key=asset_key,
        severity=severity,
        description="\n".join([*shown, *more]) or fine,
        metadata={
            CHECKED: checked,
            WRONG: len(problems),
            **({PROBLEMS: problem_table(problems, longest=_IN_THE_TABLE)} if problems else {}),
        },
    )


def _present(found: Mapping[str, str]) -> dict[str, str]:
    return {key: problem for key, problem in found.items() if problem}
