"""One pipeline as a value: what its definitions are built from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from embed_pipeline.orchestration.names import PipelineNames
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource
from embed_pipeline.orchestration.settings import EmbeddingSettings

if TYPE_CHECKING:
    from embed_pipeline.dataset import EmbeddingDataset


@dataclass(frozen=True)
class Blueprint:
    """What the definitions of one pipeline are built from.

    Args:
        client: The platform's tasks client.
        library: Where the media files are.
        store: Where the dataset is.
        settings: What the files are embedded with.
        policy: The team's choices about runs, retries, money and vanished files.
        name: Keeps several pipelines in one code location apart; None for one.
        group_name: The asset group.
        owners: Who owns the assets: ``team:name`` or e-mail addresses.
    """

    client: EmbedClientResource
    library: MediaLibraryResource
    store: EmbeddingStoreResource
    settings: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    policy: PipelinePolicy = field(default_factory=PipelinePolicy)
    name: str | None = None
    group_name: str = "embeddings"
    owners: tuple[str, ...] = ()

    @cached_property
    def names(self) -> PipelineNames:
        """What things are called."""
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
        """What stands for the settings and the platform: a task of either other one does not serve any more."""
        return f"{self.settings.code_version}.{self.client.platform}"

    @property
    def terms(self) -> str:
        """What a content is refused under, as a digest: other settings, platform or bounds may take it."""
        bounds = f"{self.policy.min_duration_sec:g} {self.policy.max_duration_sec:g}"
        return hashlib.sha256(f"{self.task_code_version} {bounds}".encode()).hexdigest()[:12]

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
    def resources(self) -> dict[str, Any]:
        """The resources by key."""
        return {self.client_key: self.client, self.library_key: self.library, self.store_key: self.store}

    def client_resource(self, resources: Any) -> EmbedClientResource:
        """The client among the resources of a run or a tick, with its environment variables read."""
        return cast("EmbedClientResource", getattr(resources, self.client_key))

    def library_resource(self, resources: Any) -> MediaLibraryResource:
        """The media library among the resources of a run or a tick."""
        return cast("MediaLibraryResource", getattr(resources, self.library_key))

    def store_resource(self, resources: Any) -> EmbeddingStoreResource:
        """The dataset among the resources of a run or a tick, to be read alone."""
        return cast("EmbeddingStoreResource", getattr(resources, self.store_key))

    def dataset(self, resources: Any) -> EmbeddingDataset:
        """The dataset that the resources of a run or a tick name, to be written to.

        Raises:
            DatasetError: It is another pipeline's.
        """
        dataset = self.store_resource(resources).dataset()
        dataset.claim(self.name or "")
        return dataset
