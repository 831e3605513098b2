"""The sensor that keeps the partitions in step with the media library, and asks for what is new to be submitted."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.dead_runs import DeadRuns
from embed_pipeline.orchestration.discovery_plan import DiscoveryPlan, plan_discovery
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.observations import media_materialization, media_observation
from embed_pipeline.orchestration.retiring import awaited_contents, retire_media
from embed_pipeline.orchestration.runs import RUNS_COUNT_FOR, runs_of_asset
from embed_pipeline.orchestration.submission_requests import SubmissionPlanner, SubmissionRequests
from embed_pipeline.orchestration.versions import is_gone, version_tags

if TYPE_CHECKING:
    from embed_pipeline.media import Listing, MediaLibrary


_PROBLEMS_SHOWN = 3


def build_media_discovery_sensor(
    *, blueprint: Blueprint, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING
) -> dg.SensorDefinition:
    """The sensor ``media_discovery_sensor``: adds, observes and retires partitions, and requests submission if told to.

    Args:
        blueprint: The pipeline.
        default_status: Whether it runs without being switched on.
    """

    @dg.sensor(
        name=blueprint.names.plain("media_discovery_sensor"),
        job_name=blueprint.names.submit_job,
        minimum_interval_seconds=blueprint.policy.sensor_interval_sec,
        default_status=default_status,
        required_resource_keys={blueprint.library_key, blueprint.store_key},
        description=(
            "Lists the media library. A new file becomes a partition, a changed one gets a new data version, a "
            "vanished one is marked as gone."
        ),
    )
    def media_discovery_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return Discovery(blueprint, context).tick()

    return media_discovery_sensor


class Discovery:
    """One tick of discovery."""

    def __init__(self, blueprint: Blueprint, context: dg.SensorEvaluationContext) -> None:
        self._blueprint = blueprint
        self._context = context
        self._ledger = Ledger(context.instance, blueprint.names)

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """List, compare, and say what is to be done."""
        names, policy = self._blueprint.names, self._blueprint.policy
        DeadRuns(self._context.instance, names, policy, self._context.log.warning).end(now=datetime.now(UTC))
        deadline = time.monotonic() + policy.tick_budget_sec
        library = self._blueprint.library_resource(self._context.resources).library()
        listing = library.list()
        files = {file.key: file for file in listing.files}
        problems = list(listing.problems)
        fingerprints = library.fingerprints(
            listing.files,
            budget_sec=max(deadline - time.monotonic(), 1.0),
            on_problem=lambda _, error: problems.append(str(error)),
        )
        partitions, told = self._ledger.partitions(), self._ledger.media_versions()
        retiring = policy.when_a_file_vanishes == "retire"
        plan = plan_discovery(
            list(files),
            fingerprints,
            partitions,
            told,
            unsure=_unsure(listing, partitions),
            needed=awaited_contents(self._ledger, fingerprints) if retiring else (),
            limit=policy.new_files_per_tick,
            when_vanished=policy.when_a_file_vanishes,
            unserved=self._unserved([key for key in partitions if key not in files and is_gone(told.get(key, ""))]),
        )
        events: list[dg.AssetObservation | dg.AssetMaterialization] = []
        for key, version in plan.observe.items():
            if key in files:
                events.append(media_materialization(names, files[key], version))
            events.append(media_observation(names, files[key], version) if key in files else self._gone(key, version))
        retired = self._retire(plan, deadline)
        wanted = SubmissionRequests()
        if policy.submit_automatically:
            wanted = self._submissions(plan, [key for key in partitions if key not in set(retired)], library, deadline)
            if wanted.watermark is not None:
                self._context.update_cursor(str(wanted.watermark))
        requests = [dg.RunRequest(tags=dict(tags)) for tags in wanted.ranges]
        summary = _summary(len(files), plan, len(retired), wanted, problems)
        self._context.log.info(summary)
        if not (events or plan.add or requests):
            return dg.SkipReason(summary)
        return dg.SensorResult(
            run_requests=requests,
            asset_events=events,
            dynamic_partitions_requests=[
                *([self._blueprint.partitions_def.build_add_request(list(plan.add))] if plan.add else []),
            ],
        )

    def _unserved(self, gone: Collection[str]) -> Collection[str]:
        """Those of the files that are gone which never had a task, and which nothing under way might give one."""
        without = set(gone) - self._ledger.task_versions().keys() if gone else set()
        instance, names = self._context.instance, self._blueprint.names
        if not without or instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]), limit=1):
            return ()
        since = datetime.now(UTC) - RUNS_COUNT_FOR
        order = self._ledger.partitions()
        return (
            without - runs_of_asset(instance, names.embedding_tasks, [names.submit_job], order, since=since).in_flight
        )

    def _retire(self, plan: DiscoveryPlan, deadline: float) -> Sequence[str]:
        """Remove what is to be retired, as far as there is time; the keys that went."""
        if not plan.retire:
            return ()
        dataset = self._blueprint.dataset(self._context.resources)
        # Half of what is left of the tick: new files wait too.
        budget_sec = max((deadline - time.monotonic()) / 2, 1.0)
        names, settings = self._blueprint.names, self._blueprint.settings
        instance = self._context.instance
        return retire_media(instance, names, dataset, plan.retire, settings=settings, budget_sec=budget_sec).keys

    def _submissions(
        self, plan: DiscoveryPlan, partitions: Sequence[str], library: MediaLibrary, deadline: float
    ) -> SubmissionRequests:
        return SubmissionPlanner(
            blueprint=self._blueprint,
            instance=self._context.instance,
            library=library,
            now=datetime.now(UTC),
            budget_sec=max(deadline - time.monotonic(), 1.0),
        ).request(
            [*partitions, *plan.add],
            # What this tick is about to tell counts as told: daemon and database will have it before the run starts.
            observed=plan.observe,
            cursor=self._context.cursor,
            most_runs=self._blueprint.policy.runs_per_tick,
        )

    def _gone(self, key: str, version: str) -> dg.AssetObservation:
        return dg.AssetObservation(
            self._blueprint.names.media_files,
            partition=key,
            metadata={"embed_pipeline/state": "gone"},
            tags=version_tags(version),
        )


def _unsure(listing: Listing, partitions: Sequence[str]) -> Collection[str]:
    """The keys that must not be taken for gone. An empty library is more likely a disk that is not mounted."""
    if not listing.files or listing.skipped.get("unreadable"):
        return frozenset(partitions)
    return listing.settling


def _summary(files: int, plan: DiscoveryPlan, retired: int, wanted: SubmissionRequests, problems: Sequence[str]) -> str:
    changed = len(plan.observe) - len(plan.add) - len(plan.vanished)
    parts = [
        f"{files} media files",
        f"{len(plan.add)} new",
        f"{changed} changed",
        f"{len(plan.vanished)} vanished",
        *([f"{retired} retired"] if retired else []),
        *([f"{plan.withheld} kept until every file of the library has been read"] if plan.withheld else []),
        *([f"{plan.left} left for the next tick"] if plan.left else []),
        *([f"{wanted.due} due for submission"] if wanted.due else []),
        *([f"{wanted.under_way} of them in runs under way"] if wanted.under_way else []),
        *wanted.notes,
        *([f"{len(wanted.ranges)} runs requested"] if wanted.ranges else []),
        *([f"{wanted.later} wait for their turn"] if wanted.later else []),
    ]
    return " ".join([", ".join(parts) + ".", *problems[:_PROBLEMS_SHOWN]])
