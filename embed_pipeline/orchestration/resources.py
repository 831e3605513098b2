"""The resources: thin, configured makers of the client, the media library and the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.sources import Delivery

if TYPE_CHECKING:
    from embed_pipeline.client import EmbedClient
    from embed_pipeline.dataset import EmbeddingDataset
    from embed_pipeline.media import MediaLibrary

EMULATOR_URL = "http://127.0.0.1:8765/v1.3"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


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
        """Who computes the vectors, for the ledger: the platform's host name, or ``emulator``."""
        # Definitions ask before Dagster has put the variable's value in its place.
        told = self.base_url.get_value() if isinstance(self.base_url, dg.EnvVar) else self.base_url
        host = urlsplit(told).hostname if told else None
        if host is None:
            return "api.twelvelabs.io" if self.api_key else "emulator"
        return "emulator" if host in _LOOPBACK else host

    @contextmanager
    def client(self, *, patience_sec: float | None = None) -> Iterator[EmbedClient]:
        """A client over one connection pool, closed at the end.

        Args:
            patience_sec: For whoever cannot wait, such as a sensor's tick: a request that is answered later than this,
                or may be sent again only later than this, is an error, and none is sent more than twice. None for the
                patience of a run.

        Raises:
            ConfigurationError: The address or a limit does not make sense.
        """
        from embed_pipeline.client import EmbedClient, Limits, RetryPolicy

        if self.base_url and urlsplit(self.base_url).scheme not in {"http", "https"}:
            raise ConfigurationError(f"base_url {self.base_url!r} is no http address; set EMBED_BASE_URL.")
        limits = Limits(
            requests_per_minute=self.requests_per_minute,
            requests_per_day=self.requests_per_day,
            media_minutes_per_hour=self.media_minutes_per_hour,
            media_minutes_per_day=self.media_minutes_per_day,
        )
        # Outside a run, as in a command, nobody has put the variable's value in its place.
        key = self.api_key.get_value() if isinstance(self.api_key, dg.EnvVar) else self.api_key
        with EmbedClient(
            api_key=key or "emulator",
            base_url=self.base_url or (None if self.api_key else EMULATOR_URL),
            timeout=self.timeout_sec if patience_sec is None else min(self.timeout_sec, patience_sec),
            retries=None if patience_sec is None else RetryPolicy(max_attempts=2, max_wait_sec=patience_sec),
            limits=limits,
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
        """The library that this resource names.

        Raises:
            ConfigurationError: The location does not make sense.
        """
        from embed_pipeline.media import DEFAULT_EXTENSIONS, MediaLibrary

        return MediaLibrary(
            self.location,
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
    """Where the dataset is."""

    root: str = Field(description="A folder or an fsspec URL such as s3://bucket/prefix.")
    storage_options: dict[str, Any] = Field(
        default={}, description="Passed to fsspec. Credentials are better left to the store's own usual means."
    )
    layout: Literal["fixed", "list"] = Field(
        default="fixed", description="fixed: fixed-size lists; list: for readers that cannot take them."
    )

    def dataset(self) -> EmbeddingDataset:
        """The dataset that this resource names."""
        from embed_pipeline.dataset import EmbeddingDataset, ParquetEncoding

        return EmbeddingDataset(
            self.root, storage_options=self.storage_options or None, encoding=ParquetEncoding(layout=self.layout)
        )
