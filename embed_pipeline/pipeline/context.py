"""One pipeline as a context value: where its media files, its dataset, its ledger and its platform are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from embed_pipeline.ledger import Ledger, Target
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy
from embed_pipeline.pipeline.sources import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embed_pipeline.client import EmbedClient
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.ledger import OutboxRow
    from embed_pipeline.media import MediaLibrary

EMULATOR = "emulator"


@dataclass(frozen=True)
class PipelineContext:
    """What every stage of the work gets whole: the library, the dataset, the ledger, the platform and the choices.

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


def config_digest(settings: EmbeddingSettings, policy: PipelinePolicy, platform: str) -> str:
    """Return a digest of what a content is refused under: other settings, platform or bounds may take it."""
    return hashlib.sha256(f"{settings.code_version}.{platform} {policy.bounds()}".encode()).hexdigest()[:12]


def platform_of(base_url: str) -> str:
    """Return who computes the vectors: the host of an address, or `emulator` for one on this machine."""
    from urllib.parse import urlsplit

    host = urlsplit(base_url).hostname or EMULATOR
    return EMULATOR if host in {"127.0.0.1", "localhost", "::1"} else host


def report_nothing(_rows: Sequence[OutboxRow]) -> None:
    """Leave changes in the outbox, for whoever reports them."""
