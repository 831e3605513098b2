"""One pipeline as a context value: where its media files, its dataset, its ledger and its platform are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from embed_pipeline.ledger import Ledger, Target
from embed_pipeline.ledger.database import default_url
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy
from embed_pipeline.pipeline.sources import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embed_pipeline.client import EmbedClient
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.ledger import OutboxRow
    from embed_pipeline.media import MediaLibrary
    from embed_pipeline.pipeline.collect import CollectionReport
    from embed_pipeline.pipeline.discover import DiscoveryReport
    from embed_pipeline.pipeline.plan import SpendingPlan
    from embed_pipeline.pipeline.publish import MediaStatus, Published
    from embed_pipeline.pipeline.submit import SubmissionReport

EMULATOR = "emulator"


@dataclass(frozen=True)
class EmbeddingPipeline:
    """A media library that is kept embedded, without Dagster.

    The context that every stage of the work gets whole. `EmbeddingPipeline.open` makes one for a script.

    Args:
        library: The media files.
        dataset: The segments.
        ledger: What is known and was paid for.
        client: The platform; None for stages that ask it nothing.
        platform: The platform's host name, or `emulator`.
        settings: What media files are embedded with.
        policy: The team's choices.
        name: Keeps several pipelines in one ledger apart; empty for one.
        delivery: How files reach the platform.
        concurrency: Requests under way at once.
    """

    library: MediaLibrary
    dataset: EmbeddingDataset
    ledger: Ledger
    client: EmbedClient | None = None
    platform: str = EMULATOR
    settings: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    policy: PipelinePolicy = field(default_factory=PipelinePolicy)
    name: str = ""
    delivery: Delivery = "auto"
    concurrency: int = 8

    @classmethod
    def open(
        cls,
        media: str,
        output: str,
        *,
        ledger: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> Self:
        """Open a pipeline for a script; close it, or use it as a context manager.

        Args:
            media: The media library: a folder, an fsspec URL or a file that lists URLs.
            output: The dataset's root: a folder or an fsspec URL.
            ledger: The ledger's URL; by default a SQLite file below a local `output`.
            api_key: The platform's key; by default `EMBED_API_KEY`. The emulator takes any.
            base_url: The API's address; by default `EMBED_BASE_URL`, else the platform's own.
            **options: Other fields, such as `settings` and `policy`.

        Raises:
            ConfigurationError: A location makes no sense, or there is no key.
        """
        from embed_pipeline.client import EmbedClient
        from embed_pipeline.dataset import EmbeddingDataset
        from embed_pipeline.media import MediaLibrary

        client = EmbedClient(api_key=api_key, base_url=base_url)
        return cls(
            library=MediaLibrary(media),
            dataset=EmbeddingDataset(output),
            ledger=Ledger(ledger or default_url(output)),
            client=client,
            platform=platform_of(client.base_url),
            **options,
        )

    @cached_property
    def target(self) -> Target:
        """The pipeline and its settings as the ledger's queries take them."""
        return Target(
            pipeline=self.name,
            audio_digest=self.settings.digest("audio"),
            video_digest=self.settings.digest("video"),
            platform=self.platform,
            config_digest=config_digest(self.settings, self.policy, self.platform),
            max_attempts=self.policy.max_attempts,
        )

    def connected(self) -> EmbedClient:
        """Return the platform's client.

        Raises:
            RuntimeError: The pipeline was made without one.
        """
        if self.client is None:
            raise RuntimeError("this pipeline was made without a client")
        return self.client

    def with_client(self, client: EmbedClient) -> Self:
        """Return the same pipeline with a client."""
        return replace(self, client=client)

    def discover(self, *, budget_sec: float | None = None) -> DiscoveryReport:
        """Compare the media library with the ledger; see `embed_pipeline.pipeline.discover.discover`."""
        from embed_pipeline.pipeline.discover import discover

        return discover(self, budget_sec=budget_sec)

    def plan(self) -> SpendingPlan:
        """Plan a submission of the whole library; see `embed_pipeline.pipeline.plan.make_plan`."""
        from embed_pipeline.pipeline.plan import make_plan

        return make_plan(self)

    def submit(self, keys: Sequence[str] | None = None) -> SubmissionReport:
        """Create the tasks that are due; see `embed_pipeline.pipeline.submit.submit`.

        Args:
            keys: Partition keys; None for all media files that are due.
        """
        from embed_pipeline.pipeline.submit import submit

        wanted = [file.key for file in self.ledger.due(self.target)] if keys is None else keys
        return submit(self, wanted)

    def collect(self, keys: Sequence[str] | None = None) -> CollectionReport:
        """Write the segments of finished tasks; see `embed_pipeline.pipeline.collect.collect`.

        Args:
            keys: Partition keys; None for all media files whose task is not collected yet.
        """
        from embed_pipeline.pipeline.collect import collect

        wanted = [file.key for file in self.ledger.pending(self.name)] if keys is None else keys
        return collect(self, wanted)

    def publish(self) -> Published:
        """Build the next snapshot of the table; see `embed_pipeline.pipeline.publish.publish`."""
        from embed_pipeline.pipeline.publish import publish

        return publish(self)

    def status(self) -> list[MediaStatus]:
        """Return what became of each media file; see `embed_pipeline.pipeline.publish.read_statuses`."""
        from embed_pipeline.pipeline.publish import read_statuses

        return read_statuses(self)

    def close(self) -> None:
        """Close the client's and the ledger's connections."""
        if self.client is not None:
            self.client.close()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def config_digest(settings: EmbeddingSettings, policy: PipelinePolicy, platform: str) -> str:
    """Return a digest of what a content is refused under: other settings, platform or bounds may take it."""
    bounds = f"{policy.min_duration_sec:g} {policy.max_duration_sec:g}"
    return hashlib.sha256(f"{settings.code_version}.{platform} {bounds}".encode()).hexdigest()[:12]


def platform_of(base_url: str) -> str:
    """Return who computes the vectors: the host of an address, or `emulator` for one on this machine."""
    from urllib.parse import urlsplit

    host = urlsplit(base_url).hostname or EMULATOR
    return EMULATOR if host in {"127.0.0.1", "localhost", "::1"} else host


def report_nothing(_rows: Sequence[OutboxRow]) -> None:
    """Leave changes in the outbox, for whoever reports them."""
