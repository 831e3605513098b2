"""The sensor that keeps the partitions in step with the media library, and asks for what is new to be submitted."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.discovery_plan import DiscoveryPlan, plan_discovery
from embed_pipeline.orchestration.due import due_for_submission
from embed_pipeline.orchestration.ledger import Ledger
from embed_pipeline.orchestration.observations import media_materialization, media_observation
from embed_pipeline.orchestration.ranges import contiguous_ranges, held_back
from embed_pipeline.orchestration.runs import runs_of_asset
from embed_pipeline.orchestration.versions import version_tags

if TYPE_CHECKING:
    from embed_pipeline.media import Listing


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
        deadline = time.monotonic() + policy.tick_budget_sec
        library = self._blueprint.library_resource(self._context.resources).library()
        listing = library.list()
        files = {file.key: file for file in listing.files}
        fingerprints = library.fingerprints(listing.files, budget_sec=max(deadline - time.monotonic(), 1.0))
        partitions, told = self._ledger.partitions(), self._ledger.media_versions()
        plan = plan_discovery(
            list(files),
            fingerprints,
            partitions,
            told,
            unsure=_unsure(listing, partitions),
            limit=policy.new_files_per_tick,
            when_vanished=policy.when_a_file_vanishes,
        )
        events: list[dg.AssetObservation | dg.AssetMaterialization] = []
        for key, version in plan.observe.items():
            if key in files:
                events.append(media_materialization(names, files[key], version))
            events.append(media_observation(names, files[key], version) if key in files else self._gone(key, version))
        if plan.retire:
            dataset = self._blueprint.store_resource(self._context.resources).dataset()
            for key in plan.retire:
                dataset.delete(key)
        requests, later = self._submissions(plan, partitions, told) if policy.submit_automatically else ([], 0)
        summary = _summary(len(files), plan, len(requests), later)
        self._context.log.info(summary)
        if not (events or plan.add or plan.retire or requests):
            return dg.SkipReason(summary)
        return dg.SensorResult(
            run_requests=requests,
            asset_events=events,
            dynamic_partitions_requests=[
                *([self._blueprint.partitions_def.build_add_request(list(plan.add))] if plan.add else []),
                *([self._blueprint.partitions_def.build_delete_request(list(plan.retire))] if plan.retire else []),
            ],
        )

    def _submissions(
        self, plan: DiscoveryPlan, partitions: Sequence[str], told: Mapping[str, str]
    ) -> tuple[list[dg.RunRequest], int]:
        policy, names, now = self._blueprint.policy, self._blueprint.names, datetime.now(UTC)
        order = [key for key in partitions if key not in set(plan.retire)] + list(plan.add)
        # What this tick is about to tell counts as told: daemon and database will have it before the run starts.
        event_ids = dict(self._ledger.media_event_ids())
        newest = max(event_ids.values(), default=0) + max(self._ledger.task_event_ids().values(), default=0) + 1
        due = due_for_submission(
            order,
            {**told, **plan.observe},
            {**event_ids, **dict.fromkeys(plan.observe, newest)},
            self._ledger.task_event_ids(),
            self._ledger.task_versions(),
            self._ledger.outcomes(),
            max_attempts=policy.max_attempts,
        )
        runs = runs_of_asset(
            self._context.instance,
            names.embedding_tasks,
            [names.submit_job],
            order,
            since=now - timedelta(hours=6),
        )
        waiting = held_back(runs.failed, policy.retry_backoff_sec, now)
        wanted = [key for key in due if key not in runs.in_flight and key not in waiting]
        ranges = contiguous_ranges(wanted, order, policy.partitions_per_run)
        chosen = ranges[: policy.runs_per_tick]
        later = len(due) - sum(len(some.keys) for some in chosen)
        return [dg.RunRequest(tags=some.tags) for some in chosen], later

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


def _summary(files: int, plan: DiscoveryPlan, runs: int, later: int) -> str:
    changed = len(plan.observe) - len(plan.add) - len(plan.vanished)
    parts = [
        f"{files} media files",
        f"{len(plan.add)} new",
        f"{changed} changed",
        f"{len(plan.vanished)} vanished",
        *([f"{len(plan.retire)} retired"] if plan.retire else []),
        *([f"{plan.left} left for the next tick"] if plan.left else []),
        *([f"{runs} runs requested"] if runs else []),
        *([f"{later} wait for their turn"] if later else []),
    ]
    return ", ".join(parts) + "."
