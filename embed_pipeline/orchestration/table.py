"""The asset ``embeddings_table``, the job that refreshes it and its checks, and the sensor that asks for that job.

A run costs seconds to start, so the table is not built once for each media file: the sensor asks for it when all
results are in, or now and then while they still come in. It looks at the latest events only, and asks the platform
nothing.
"""

# No deferred annotations here: Dagster reads the class of a step's context from its signature.

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.dead_runs import DeadRuns
from embed_pipeline.orchestration.events import failure_in_one_sentence
from embed_pipeline.orchestration.health import mixed_spaces
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.metadata import (
    COLUMN_LINEAGE,
    COLUMN_SCHEMA,
    ROW_COUNT,
    SIZE_BYTES,
    TABLE_NAME,
    URI,
    column_lineage,
    column_schema,
)
from embed_pipeline.orchestration.outcome_rows import current_outcomes
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.readiness import pending_tasks
from embed_pipeline.orchestration.runs import RUNS_COUNT_FOR, runs_under_way
from embed_pipeline.orchestration.signs_of_life import signs_of_life

if TYPE_CHECKING:
    from embed_pipeline.dataset import MediaOutcome, Snapshot, WrittenFile

POSITION = "embed_pipeline/position"
ONE_SPACE = "one_vector_space"


def build_embeddings_table(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The asset of the compacted snapshot, with the table of outcomes beside it."""
    names, policy = blueprint.names, blueprint.policy

    @dg.asset(
        key=names.embeddings_table,
        deps=[names.segment_embeddings],
        description=(
            "All current segments in a few large Parquet files with a manifest, each media file once. Beside it lies "
            "the table `media`, one row for each media file, which tells what became of it. Readers go on with the "
            "snapshot before until the next one is complete, and earlier ones can be rolled back to."
        ),
        code_version="1",
        group_name=blueprint.group_name,
        owners=list(blueprint.owners),
        kinds={"parquet", "table"},
        metadata={
            COLUMN_SCHEMA: column_schema(blueprint.settings.embedding_dimension),
            COLUMN_LINEAGE: column_lineage(names.segment_embeddings),
            TABLE_NAME: "embeddings_table",
        },
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=timedelta(seconds=max(2 * policy.table_longest_sec, 60)),
            fail_window=timedelta(seconds=max(4 * policy.table_longest_sec, 120)),
        ),
        check_specs=[
            dg.AssetCheckSpec(
                ONE_SPACE, asset=names.embeddings_table, description="All vectors of the table may be compared."
            )
        ],
        required_resource_keys={blueprint.store_key},
    )
    def embeddings_table(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        ledger = Ledger(context.instance, names)
        with failure_in_one_sentence():
            dataset = blueprint.dataset(context.resources)
        # Read before anything else: what is told while this runs is taken up by the next run.
        position, since = ledger.position(), table_position(context.instance, blueprint)
        with signs_of_life(context.instance, context.run, names, policy):
            outcomes = current_outcomes(ledger, dataset, since if since <= position else 0)
            written = dataset.write_outcomes(outcomes)
            before = dataset.snapshot()
            snapshot = dataset.compact(keys=_wanted(ledger, outcomes), retain=policy.snapshots_kept)
            swept = dataset.sweep()
        unchanged = before is not None and before.snapshot_id == snapshot.snapshot_id
        context.log.info(
            f"Snapshot {snapshot.snapshot_id}: {snapshot.rows} segments of {snapshot.media} media files in "
            f"{len(snapshot.files)} files, {0 if unchanged else len(snapshot.written_files)} of them written now; "
            f"{len(outcomes)} rows in the table of outcomes; {len(swept)} leftovers removed."
        )
        yield dg.MaterializeResult(
            asset_key=names.embeddings_table,
            metadata={
                **_snapshot_metadata(snapshot, written_now=0 if unchanged else len(snapshot.written_files)),
                **_outcome_metadata(outcomes, written),
                URI: dataset.storage.uri("embeddings_table"),
                POSITION: position,
            },
            data_version=dg.DataVersion(snapshot.snapshot_id),
        )
        media_by_space = Counter[str]()
        for file in snapshot.files:
            media_by_space[file.space] += file.media
        problem = mixed_spaces(media_by_space)
        yield dg.AssetCheckResult(
            asset_key=names.embeddings_table,
            check_name=ONE_SPACE,
            passed=problem is None,
            severity=dg.AssetCheckSeverity.WARN,
            description=problem or f"All vectors are of the space {', '.join(media_by_space) or '(none yet)'}.",
            metadata={f"embed_pipeline/media_in_{space}": count for space, count in media_by_space.items()},
        )

    return embeddings_table


def build_refresh_job(blueprint: Blueprint) -> UnresolvedAssetJobDefinition:
    """The job ``refresh_embeddings_table``: the table, its check, and the checks of ``embedding_tasks``."""
    names = blueprint.names
    return dg.define_asset_job(
        names.refresh_job,
        selection=dg.AssetSelection.assets(names.embeddings_table)
        | dg.AssetSelection.checks_for_assets(names.embedding_tasks),
        executor_def=dg.in_process_executor,
        description=(
            "Builds the next snapshot of embeddings_table and the table of outcomes, and checks the library's tasks. "
            "Only what changed is written."
        ),
    )


def build_embeddings_table_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """The sensor ``embeddings_table_sensor``: asks for the table when there is something new to put into it.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """
    names, policy = blueprint.names, blueprint.policy
    job_name = names.refresh_job

    @dg.sensor(
        name=names.plain("embeddings_table_sensor"),
        job_name=job_name,
        minimum_interval_seconds=policy.sensor_interval_sec,
        default_status=default_status,
        description=(
            "Asks for embeddings_table when all results are in, now and then while they still come in, and at least "
            "every few hours, because its checks run with it; first of all as soon as there are media files. Asks "
            "the platform nothing."
        ),
    )
    def embeddings_table_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        now = datetime.now(UTC)
        DeadRuns(context.instance, names, policy, context.log.warning).end(now=now)
        if runs_under_way(context.instance, since=now - RUNS_COUNT_FOR, job_name=job_name):
            return dg.SkipReason("A run of embeddings_table is under way.")
        latest = context.instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=1)
        ledger = Ledger(context.instance, names)
        position, since = ledger.position(), table_position(context.instance, blueprint)
        if position == 0:
            return dg.SkipReason("There are no media files yet.")
        asked = latest[0].create_timestamp if latest else None
        pending = 0
        if position != since:
            pending = len(pending_tasks(ledger.task_versions(), ledger.embedded_versions(), ledger.outcomes()))
        decision = refresh_due(
            changed=position != since,
            pending=pending,
            last_asked=asked,
            now=now,
            policy=policy,
        )
        return dg.RunRequest() if decision.due else dg.SkipReason(decision.reason)

    return embeddings_table_sensor


@dataclass(frozen=True, slots=True)
class RefreshDecision:
    """Whether the table is to be built now, and why, or why not."""

    due: bool
    reason: str


def refresh_due(
    *, changed: bool, pending: int, last_asked: datetime | None, now: datetime, policy: PipelinePolicy
) -> RefreshDecision:
    """Decide whether the table is to be built now.

    Args:
        changed: Whether anything was told since it was built.
        pending: Tasks whose results are still to come.
        last_asked: When it was last asked for, whatever came of that; None for never.
        now: The time of the decision.
        policy: How often at the most and at the least.
    """
    if last_asked is None:
        # However little there is to put into the first table: its checks are what tells that nothing comes in.
        return RefreshDecision(changed, "Nothing has been told of any media file yet.")
    age = (now - last_asked).total_seconds()
    if age >= policy.table_longest_sec:
        return RefreshDecision(True, "It was last asked for long ago.")
    if not changed:
        return RefreshDecision(False, "Nothing has changed since embeddings_table was built.")
    # With nothing pending, what changed is in; the sensor's own interval keeps runs apart.
    wait = policy.table_interval_sec if pending else min(policy.table_interval_sec, 2 * policy.sensor_interval_sec)
    if age >= wait:
        return RefreshDecision(True, "Something has changed.")
    return RefreshDecision(
        False, f"{pending} tasks are pending; embeddings_table is asked for again in {wait - age:.0f} s at the latest."
    )


def table_position(instance: dg.DagsterInstance, blueprint: Blueprint) -> int:
    """The ledger's position that the latest snapshot was built at; 0 before the first."""
    event = instance.get_latest_materialization_event(blueprint.names.embeddings_table)
    materialization = event.asset_materialization if event is not None else None
    value = materialization.metadata.get(POSITION) if materialization is not None else None
    return value.value if isinstance(value, dg.IntMetadataValue) and value.value is not None else 0


def _wanted(ledger: Ledger, outcomes: "list[MediaOutcome]") -> dict[str, str]:
    """Each media file that has segments, with the settings of its latest ones."""
    embedded, tasks = ledger.embedded_versions(), ledger.task_versions()
    wanted: dict[str, str] = {}
    earlier = []
    for row in outcomes:
        if row.media not in embedded:
            continue
        if embedded[row.media] == tasks.get(row.media) and row.settings_digest:
            wanted[row.media] = row.settings_digest
        else:
            # Its latest task has no result yet; what an earlier one gave stays until it does.
            earlier.append(row.media)
    for key, result in ledger.latest_results(earlier).items():
        wanted[key] = str(result.metadata.get("embed_pipeline/settings_digest", ""))
    return wanted


def _snapshot_metadata(snapshot: "Snapshot", *, written_now: int) -> dict[str, Any]:
    return {
        ROW_COUNT: snapshot.rows,
        SIZE_BYTES: snapshot.size_bytes,
        "embed_pipeline/segments": snapshot.rows,
        "embed_pipeline/media_files_in_the_table": snapshot.media,
        "embed_pipeline/files": len(snapshot.files),
        "embed_pipeline/files_written": written_now,
        "embed_pipeline/spaces": ", ".join(snapshot.spaces),
        "embed_pipeline/snapshot": snapshot.snapshot_id,
    }


def _outcome_metadata(outcomes: "list[MediaOutcome]", written: "WrittenFile") -> Mapping[str, Any]:
    states = Counter(row.state for row in outcomes)
    return {
        **{f"embed_pipeline/{state}": count for state, count in sorted(states.items())},
        "embed_pipeline/minutes_billed": round(sum(row.minutes_billed or 0.0 for row in outcomes), 3),
        "embed_pipeline/outcomes": dg.MetadataValue.path(written.uri),
    }
