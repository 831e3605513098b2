"""Embedding pipeline for scripts: every stage of the work as a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from embed_pipeline.ledger import Ledger
from embed_pipeline.ledger.database import default_url
from embed_pipeline.pipeline.collect import CollectionReport, collect
from embed_pipeline.pipeline.context import PipelineContext, platform_of
from embed_pipeline.pipeline.discover import DiscoveryReport, discover
from embed_pipeline.pipeline.plan import SpendingPlan, make_plan
from embed_pipeline.pipeline.publish import MediaStatus, Published, publish, read_statuses
from embed_pipeline.pipeline.submit import SubmissionReport, submit

if TYPE_CHECKING:
    from types import TracebackType


@dataclass(frozen=True)
class EmbeddingPipeline(PipelineContext):
    """A media library that is kept embedded, without Dagster; `EmbeddingPipeline.open` makes one."""

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

    def discover(self, *, budget_sec: float | None = None) -> DiscoveryReport:
        """Compare the media library with the ledger; see `discover.discover`."""
        return discover(self, budget_sec=budget_sec)

    def plan(self) -> SpendingPlan:
        """Plan a submission of the whole library; see `embed_pipeline.pipeline.plan.make_plan`."""
        return make_plan(self)

    def submit(self, keys: Sequence[str] | None = None) -> SubmissionReport:
        """Create the tasks that are due; see `embed_pipeline.pipeline.submit.submit`.

        Args:
            keys: Partition keys; None for all media files that are due.
        """
        wanted = [file.key for file in self.ledger.due(self.target)] if keys is None else keys
        return submit(self, wanted)

    def collect(self, keys: Sequence[str] | None = None) -> CollectionReport:
        """Write the segments of finished tasks; see `embed_pipeline.pipeline.collect.collect`.

        Args:
            keys: Partition keys; None for all media files whose task is not collected yet.
        """
        wanted = [file.key for file in self.ledger.pending(self.name)] if keys is None else keys
        return collect(self, wanted)

    def publish(self) -> Published:
        """Build the next snapshot of the table; see `embed_pipeline.pipeline.publish.publish`."""
        return publish(self)

    def status(self) -> list[MediaStatus]:
        """Return what became of each media file; see `embed_pipeline.pipeline.publish.read_statuses`."""
        return read_statuses(self)

    def close(self) -> None:
        """Close the client's and the ledger's connections."""
        if self.client is not None:
            self.client.close()
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
