"""Blueprint of one pipeline in Dagster: what its definitions are built from, and what its things are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.metadata.metadata_value import ObjectMetadataValue

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.resources import (
    EmbedClientResource,
    EmbeddingLedgerResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
)
from embed_pipeline.pipeline.context import PipelineContext, config_digest, living
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy

POOL = "embedding_api"
_BLUEPRINT = "embed_pipeline/blueprint"


@dataclass(frozen=True)
class PipelineNames:
    """The Dagster names of one pipeline; a second pipeline in the same code location sets `name` to keep them apart.

    Args:
        name: Put before every asset key as a prefix and before every other name with an underscore. None for the
            plain names.
    """

    name: str | None = None

    def asset_key(self, base: str) -> dg.AssetKey:
        """The key of the asset `base`."""
        return dg.AssetKey([self.name, base]) if self.name else dg.AssetKey(base)

    def plain(self, base: str) -> str:
        """The name of anything that is not an asset: a job, a sensor, a resource, a partitions definition."""
        return f"{self.name}_{base}" if self.name else base

    @property
    def media_files(self) -> dg.AssetKey:
        """The external asset of the media files."""
        return self.asset_key("media_files")

    @property
    def embedding_tasks(self) -> dg.AssetKey:
        """The asset whose partitions are the platform's tasks."""
        return self.asset_key("embedding_tasks")

    @property
    def segment_embeddings(self) -> dg.AssetKey:
        """The asset whose partitions are the segments written to the dataset."""
        return self.asset_key("segment_embeddings")

    @property
    def embeddings_table(self) -> dg.AssetKey:
        """The asset of the compacted snapshot."""
        return self.asset_key("embeddings_table")

    @property
    def partitions(self) -> str:
        """The dynamic partitions: one key for each media file."""
        return self.plain("media")

    @property
    def submit_job(self) -> str:
        """The job that creates embedding tasks."""
        return self.plain("submit_embedding_tasks")

    @property
    def collect_job(self) -> str:
        """The job that collects the results of ready tasks."""
        return self.plain("collect_embeddings")

    @property
    def retry_job(self) -> str:
        """The job that retries what failed or expired."""
        return self.plain("retry_failed_embeddings")

    @property
    def submit_new_job(self) -> str:
        """The job that submits whatever is due."""
        return self.plain("submit_new_media")

    @property
    def force_job(self) -> str:
        """The job that pays for a new task, whatever a media file has."""
        return self.plain("force_new_task")

    @property
    def plan_job(self) -> str:
        """The job that tells what a submission would create."""
        return self.plain("plan_embedding_tasks")

    @property
    def retire_job(self) -> str:
        """The job that removes what vanished."""
        return self.plain("retire_vanished_media")

    @property
    def refresh_job(self) -> str:
        """The job that builds the next snapshot of the table."""
        return self.plain("refresh_embeddings_table")

    @property
    def jobs(self) -> frozenset[str]:
        """All jobs of the pipeline."""
        return frozenset(
            {
                *(self.submit_job, self.collect_job, self.refresh_job, self.plan_job, self.retire_job),
                *(self.submit_new_job, self.retry_job, self.force_job),
            }
        )

    @property
    def assets(self) -> frozenset[dg.AssetKey]:
        """The assets that runs materialize."""
        return frozenset({self.embedding_tasks, self.segment_embeddings, self.embeddings_table})

    @property
    def task_checks(self) -> str:
        """The step that checks the tasks of the whole library."""
        return self.plain("embedding_task_checks")


@dataclass(frozen=True)
class Blueprint:
    """What the definitions of one pipeline are built from.

    Args:
        client: The platform's tasks client.
        library: Where the media files are.
        store: Where the dataset is.
        ledger: Where the ledger is; by default a SQLite file below a local dataset root.
        settings: What the files are embedded with.
        policy: The team's choices about runs, retries, money and vanished files.
        name: Keeps several pipelines in one code location apart; None for one.
        group_name: The asset group.
        owners: Who owns the assets: `team:name` or e-mail addresses.

    Raises:
        ConfigurationError: The schedule's cron expression or time zone is none.
    """

    client: EmbedClientResource
    library: MediaLibraryResource
    store: EmbeddingStoreResource
    ledger: EmbeddingLedgerResource = field(default_factory=EmbeddingLedgerResource)
    settings: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    policy: PipelinePolicy = field(default_factory=PipelinePolicy)
    name: str | None = None
    group_name: str = "embeddings"
    owners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_schedule(self.policy)

    @cached_property
    def names(self) -> PipelineNames:
        """The names of the pipeline's things."""
        return PipelineNames(self.name)

    @cached_property
    def partitions_def(self) -> dg.DynamicPartitionsDefinition:
        """One partition for each media file."""
        return dg.DynamicPartitionsDefinition(name=self.names.partitions)

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        """Many media files in one run, because a run costs seconds to start."""
        return dg.BackfillPolicy.multi_run(max_partitions_per_run=self.policy.partitions_per_run)

    @property
    def task_code_version(self) -> str:
        """The code version of `embedding_tasks`: settings and platform; tasks of other ones are stale."""
        return f"{self.settings.code_version}.{self.client.platform}"

    @property
    def config_digest(self) -> str:
        """A digest of what a content is refused under."""
        return config_digest(self.settings, self.policy, self.client.platform)

    @property
    def client_key(self) -> str:
        """The resource key of the client."""
        return self.names.plain("embed_client")

    @property
    def library_key(self) -> str:
        """The resource key of the media library."""
        return self.names.plain("media_library")

    @property
    def store_key(self) -> str:
        """The resource key of the dataset."""
        return self.names.plain("embedding_store")

    @property
    def ledger_key(self) -> str:
        """The resource key of the ledger."""
        return self.names.plain("embedding_ledger")

    @property
    def resource_keys(self) -> set[str]:
        """All resource keys: whatever works on the pipeline needs the whole context."""
        return {self.client_key, self.library_key, self.store_key, self.ledger_key}

    @property
    def resources(self) -> dict[str, Any]:
        """The resources by key."""
        return {
            self.client_key: self.client,
            self.library_key: self.library,
            self.store_key: self.store,
            self.ledger_key: self.ledger,
        }

    def client_resource(self, resources: Any) -> EmbedClientResource:
        """Return the client among the resources of a run or a tick, with its environment variables read."""
        return cast("EmbedClientResource", getattr(resources, self.client_key))

    @contextmanager
    def pipeline(
        self, resources: Any = None, *, patience_sec: float | None = None, connect: bool = True
    ) -> Iterator[PipelineContext]:
        """Open the pipeline's context, and close its connections at the end.

        Args:
            resources: The resources of a run or a tick; None for the blueprint's own, as in a command.
            patience_sec: For whoever cannot wait, such as a sensor's tick; see `EmbedClientResource.client`.
            connect: Whether the platform is needed.

        Raises:
            ConfigurationError: A setting makes no sense.
        """
        chosen = self.resources if resources is None else {key: getattr(resources, key) for key in self.resource_keys}
        client, store = chosen[self.client_key], chosen[self.store_key]
        with ExitStack() as stack:
            dataset = store.dataset()
            ledger = stack.enter_context(chosen[self.ledger_key].open(dataset.root))
            connected = stack.enter_context(client.client(patience_sec=patience_sec)) if connect else None
            yield PipelineContext(
                library=chosen[self.library_key].library(),
                dataset=dataset,
                ledger=ledger,
                client=connected,
                platform=client.platform,
                settings=self.settings,
                policy=self.policy,
                name=self.name or "",
                delivery=client.delivery,
                concurrency=client.concurrency,
            )

    @contextmanager
    def step(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext | dg.AssetCheckExecutionContext,
        *,
        connect: bool = True,
    ) -> Iterator[PipelineContext]:
        """Open the pipeline's context for a step, and hold the lease of its run until the end.

        Args:
            context: The step; its resources hold the pipeline's.
            connect: Whether the platform is needed.

        Raises:
            ConfigurationError: A setting makes no sense.
        """
        with (
            self.pipeline(context.resources, connect=connect) as pipeline,
            living(pipeline, context.run.run_id),
        ):
            yield pipeline


def check_schedule(policy: PipelinePolicy) -> None:
    """Make sure that Dagster takes the schedule's cron expression and time zone.

    Raises:
        ConfigurationError: It does not; the message names the field.
    """
    for name, cron, timezone, form in (
        ("schedule_cron", policy.schedule_cron, "UTC", "cron expression, as in '0 2 * * *'"),
        ("schedule_timezone", "0 0 * * *", policy.schedule_timezone, "time zone, as in 'Europe/Berlin'"),
    ):
        try:
            dg.ScheduleDefinition(name="trial", job_name="trial", cron_schedule=cron, execution_timezone=timezone)
        except (dg.DagsterInvalidDefinitionError, ValueError, KeyError):
            raise ConfigurationError(f"{name} is {getattr(policy, name)!r}, which is no {form}.") from None


def blueprint_metadata(blueprint: Blueprint) -> dict[str, ObjectMetadataValue]:
    """Return the blueprint as metadata of the definitions that are built from it.

    Merged definitions keep it, because each pipeline's entry bears its name; other processes see only that it is there.
    """
    return {f"{_BLUEPRINT}/{blueprint.name}" if blueprint.name else _BLUEPRINT: ObjectMetadataValue(blueprint)}


def blueprints_in(metadata: Mapping[str, Any]) -> list[Blueprint]:
    """Return the blueprints that definitions were built from.

    Args:
        metadata: The metadata of the definitions.
    """
    values = (value for key, value in metadata.items() if key.startswith(_BLUEPRINT))
    objects = (value.instance for value in values if isinstance(value, ObjectMetadataValue))
    return [blueprint for blueprint in objects if isinstance(blueprint, Blueprint)]


def pipelines_in(instance: dg.DagsterInstance) -> set[str | None]:
    """Return the names of the pipelines that have media files in an instance; None for the one without a name."""
    keys = [key for key in instance.get_asset_keys() if key.path[-1] == "media_files" and len(key.path) <= 2]
    names = [key.path[0] if len(key.path) == 2 else None for key in keys]
    return {name for name in names if instance.get_dynamic_partitions(PipelineNames(name).partitions)}
