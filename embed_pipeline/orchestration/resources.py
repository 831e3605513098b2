"""Resources: configured makers of the client, the media library, the dataset and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.pipeline.context import platform_of
from embed_pipeline.pipeline.sources import Delivery
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient, Limits
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.ledger import Ledger
    from embed_pipeline.media import MediaLibrary

EMULATOR_URL = "http://127.0.0.1:8765/v1.3"


def value_of(field: str | dg.EnvVar) -> str:
    """Return a text field's value; outside a run nobody has put an environment variable's value in its place."""
    return (field.get_value() or "") if isinstance(field, dg.EnvVar) else field


class EmbedClientResource(dg.ConfigurableResource[Any]):
    """The platform's tasks client: the real platform with a key, the emulator without one."""

    api_key: str = Field(default="", description="The platform's API key; empty means the emulator.")
    base_url: str = Field(
        default="",
        description="Where the API is, with its version (/v1.3); empty for the platform, or the emulator's usual port.",
    )
    timeout_sec: float = Field(default=600.0, gt=0, description="How long one request may take, in seconds.")
    concurrency: int = Field(default=8, ge=1, le=64, description="Requests under way at once in one run.")
    requests_per_minute: int | None = Field(
        default=None, gt=0, description="The plan's limit of task creations a minute."
    )
    requests_per_day: int | None = Field(default=None, gt=0, description="The plan's limit of task creations a day.")
    media_minutes_per_hour: float | None = Field(
        default=None, gt=0, description="The plan's limit of media minutes an hour."
    )
    media_minutes_per_day: float | None = Field(
        default=None, gt=0, description="The plan's limit of media minutes a day."
    )
    delivery: Delivery = Field(
        default="auto",
        description="How files reach the platform: auto, url, upload, base64, or file (read in place by an emulator).",
    )

    @property
    def is_emulator(self) -> bool:
        """Whether it talks to an emulator: no key, or an address on this machine."""
        return not self.api_key or self.platform == "emulator"

    @property
    def platform(self) -> str:
        """Who computes the vectors: the platform's host name, or `emulator`."""
        # Definitions ask before Dagster has put the variable's value in its place.
        base_url = value_of(self.base_url)
        if not base_url:
            return "api.twelvelabs.io" if self.api_key else "emulator"
        return platform_of(base_url)

    def limits(self) -> Limits:
        """Return what the platform's plan allows."""
        from embed_pipeline.client import Limits

        return Limits(
            requests_per_minute=self.requests_per_minute,
            requests_per_day=self.requests_per_day,
            media_minutes_per_hour=self.media_minutes_per_hour,
            media_minutes_per_day=self.media_minutes_per_day,
        )

    @contextmanager
    def client(self, *, patience_sec: float | None = None) -> Iterator[EmbedClient]:
        """Open a client over one connection pool, closed at the end.

        Args:
            patience_sec: For whoever cannot wait, such as a sensor's tick: a request that is answered later than this,
                or may be sent again only later than this, is an error, and none is sent more than twice. None for the
                patience of a run.

        Raises:
            ConfigurationError: The address or a limit does not make sense.
        """
        from embed_pipeline.client import EmbedClient, RetryPolicy

        base_url = value_of(self.base_url)
        if base_url and urlsplit(base_url).scheme not in {"http", "https"}:
            raise ConfigurationError(
                f"base_url {without_credentials(base_url)!r} is no http address; set EMBED_BASE_URL."
            )
        with EmbedClient(
            api_key=value_of(self.api_key) or "emulator",
            base_url=base_url or (None if self.api_key else EMULATOR_URL),
            timeout=self.timeout_sec if patience_sec is None else min(self.timeout_sec, patience_sec),
            retries=None if patience_sec is None else RetryPolicy(max_attempts=2, max_wait_sec=patience_sec),
            limits=self.limits(),
        ) as client:
            yield client


class MediaLibraryResource(dg.ConfigurableResource[Any]):
    """The media library: a local folder, an object-store prefix, or a manifest of URLs."""

    location: str = Field(description="A folder, an fsspec URL such as s3://bucket/prefix, or a file that lists URLs.")
    include: list[str] = Field(default=[], description="Glob patterns of paths to take; empty takes all.")
    exclude: list[str] = Field(default=[], description="Glob patterns of paths to leave out.")
    settle_sec: float = Field(
        default=5.0,
        ge=0,
        description="A file that changed within so many seconds may still be being written and is left for later.",
    )
    extensions: list[str] = Field(
        default=[], description="File name endings that are taken for media, such as .mp4; empty for the usual ones."
    )
    recursive: bool = Field(default=True, description="Whether folders within the library are looked into.")
    follow_links: bool = Field(default=False, description="Whether symbolic links may lead out of the library.")
    storage_options: dict[str, Any] = Field(
        default={}, description="Passed to fsspec. Credentials are better left to the store's own usual means."
    )
    cache: str | None = Field(
        default=None, description="Where fingerprints are cached; empty for the user's cache folder."
    )

    def library(self) -> MediaLibrary:
        """Return the library that this resource names.

        Raises:
            ConfigurationError: The location does not make sense.
        """
        from embed_pipeline.media import DEFAULT_EXTENSIONS, MediaLibrary

        return MediaLibrary(
            value_of(self.location),
            include=self.include,
            exclude=self.exclude,
            extensions=self.extensions or DEFAULT_EXTENSIONS,
            recursive=self.recursive,
            settle_seconds=self.settle_sec,
            follow_links=self.follow_links,
            storage_options=self.storage_options,
            cache=self.cache,
        )


class EmbeddingStoreResource(dg.ConfigurableResource[Any]):
    """The dataset of segments: a folder or an object-store prefix."""

    root: str = Field(description="A folder or an fsspec URL such as s3://bucket/prefix.")
    storage_options: dict[str, Any] = Field(
        default={}, description="Passed to fsspec. Credentials are better left to the store's own usual means."
    )
    layout: Literal["fixed", "list"] = Field(
        default="fixed", description="fixed: fixed-size lists; list: for readers that cannot take them."
    )

    def dataset(self) -> EmbeddingDataset:
        """Return the dataset that this resource names."""
        from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding

        return EmbeddingDataset(
            value_of(self.root),
            storage_options=self.storage_options or None,
            encoding=ParquetEncoding(layout=self.layout),
        )


class EmbeddingLedgerResource(dg.ConfigurableResource[Any]):
    """The ledger: the relational store of media files and tasks."""

    url: str = Field(
        default="",
        description=(
            "sqlite:////path/ledger.db, or postgresql://... for several machines (as an EnvVar, since it holds a "
            "password). Empty for a SQLite file below a local dataset root."
        ),
    )

    @contextmanager
    def open(self, dataset_root: str) -> Iterator[Ledger]:
        """Open the ledger, and close its connections at the end.

        Args:
            dataset_root: The dataset's root, below which the ledger is by default.

        Raises:
            ConfigurationError: The URL makes no sense, or is needed because the dataset is in an object store.
        """
        from embed_pipeline.ledger import Ledger
        from embed_pipeline.ledger.database import default_url

        with Ledger(value_of(self.url) or default_url(dataset_root)) as ledger:
            yield ledger
