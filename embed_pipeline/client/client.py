"""The client itself, once with threads and once for asyncio."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from embed_pipeline.client.assets import (
    AssetsClient,
    AsyncAssetsClient,
    AsyncMultipartUploadClient,
    MultipartUploadClient,
)
from embed_pipeline.client.exchange import ClientStats, CreateRegistry, Session
from embed_pipeline.client.limits import Budget, Limits, RetryPolicy
from embed_pipeline.client.tasks import AsyncTasksClient, TasksClient
from embed_pipeline.client.transport import AsyncioDriver, ThreadDriver, connection_limits, read_timeout
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.redaction import guard_httpx_log, without_credentials

if TYPE_CHECKING:
    import httpx

PLATFORM_URL = "https://api.twelvelabs.io/v1.3"
_KEY_NAMES = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY")
_URL_NAMES = ("EMBED_BASE_URL", "TWELVELABS_BASE_URL")
DEFAULT_TIMEOUT_SEC = 60.0
Tasks = TypeVar("Tasks")


def _from_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _session(
    api_key: str | None,
    base_url: str | None,
    retries: RetryPolicy | None,
    limits: Limits | Budget | str | None,
    timeout: float | httpx.Timeout,
) -> Session:
    # What is passed in counts, even if it is empty: falling back to the platform's address would cost money.
    key = api_key.strip() if api_key is not None else _from_environment(_KEY_NAMES)
    if not key:
        raise ConfigurationError(
            "There is no API key: pass api_key, or set EMBED_API_KEY (or TWELVE_LABS_API_KEY). "
            "The emulator takes any key."
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigurationError("The API key holds characters that do not fit into a header: copy it again.")
    url = (base_url if base_url is not None else _from_environment(_URL_NAMES) or PLATFORM_URL).strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"The base URL {without_credentials(url)!r} does not begin with http:// or https://.")
    if isinstance(limits, str):
        limits = Limits.plan(limits)
    budget = limits if isinstance(limits, Budget) else Budget.shared(url, key, limits or Limits())
    return Session(
        base_url=url,
        api_key=key,
        retries=retries or RetryPolicy(),
        budget=budget,
        deadline_sec=timeout if isinstance(timeout, int | float) else timeout.read,
        registry=CreateRegistry.shared(url, key),
    )


@dataclass(frozen=True)
class Version2(Generic[Tasks]):
    """``client.v_2``: the second generation of the Embed API.

    Attributes:
        tasks: Asynchronous embedding tasks.
    """

    tasks: Tasks


@dataclass(frozen=True)
class Embed(Generic[Tasks]):
    """``client.embed``, so that the official SDK's ``client.embed.v_2.tasks`` works unchanged.

    Attributes:
        v_2: The same as ``client.v_2``.
    """

    v_2: Version2[Tasks]


class EmbedClient:
    """The platform's Embed API v2. One client may serve many threads, and should: they share connections and limits.

    Args:
        api_key: Else ``EMBED_API_KEY``, else ``TWELVE_LABS_API_KEY``.
        base_url: With ``/v1.3``; else ``EMBED_BASE_URL``, else ``TWELVELABS_BASE_URL``, else the platform's own.
        timeout: The longest silence while reading or writing, seconds; or an ``httpx.Timeout``.
        retries: What is tried again, how often and how long.
        limits: A plan's name, :class:`Limits`, or a :class:`Budget` of your own; by default nothing is assumed and only
            the platform's answers count. Clients of one process with the same key, address and limits share one budget.
        http_client: An ``httpx.Client`` of your own (for a proxy, say), which you close yourself.

    Raises:
        ConfigurationError: There is no key, or the address is none.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT_SEC,
        retries: RetryPolicy | None = None,
        limits: Limits | Budget | str | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        import httpx

        guard_httpx_log()
        self._session = _session(api_key, base_url, retries, limits, timeout)
        self._owns_http = http_client is None
        self._http = http_client or httpx.Client(timeout=read_timeout(timeout), limits=connection_limits())
        driver = ThreadDriver(self._session, self._http)
        self.v_2 = Version2(TasksClient(self._session, driver))
        self.assets = AssetsClient(self._session, driver)
        self.multipart_upload = MultipartUploadClient(self._session, driver)
        self.embed = Embed(self.v_2)

    @property
    def base_url(self) -> str:
        """Where the requests go."""
        return self._session.base_url

    @property
    def clock_offset_sec(self) -> float | None:
        """How far the platform's clock is ahead of ours, in seconds; None as long as it did not say."""
        return self._session.clock_offset_sec

    @property
    def stats(self) -> ClientStats:
        """What this client has done so far."""
        return self._session.stats()

    def close(self) -> None:
        """Closes the connections, unless they belong to an ``http_client`` that was passed in."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_credentials(self.base_url)})"


class AsyncEmbedClient:
    """The same for asyncio. It shares its limits with the other clients of the process, whether asyncio or threads.

    Args:
        api_key: As for :class:`EmbedClient`.
        base_url: As for :class:`EmbedClient`.
        timeout: As for :class:`EmbedClient`.
        retries: As for :class:`EmbedClient`.
        limits: As for :class:`EmbedClient`.
        http_client: An ``httpx.AsyncClient`` of your own, which you close yourself.

    Raises:
        ConfigurationError: There is no key, or the address is none.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT_SEC,
        retries: RetryPolicy | None = None,
        limits: Limits | Budget | str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        import httpx

        guard_httpx_log()
        self._session = _session(api_key, base_url, retries, limits, timeout)
        self._owns_http = http_client is None
        self._http = http_client or httpx.AsyncClient(timeout=read_timeout(timeout), limits=connection_limits())
        driver = AsyncioDriver(self._session, self._http)
        self.v_2 = Version2(AsyncTasksClient(self._session, driver))
        self.assets = AsyncAssetsClient(self._session, driver)
        self.multipart_upload = AsyncMultipartUploadClient(self._session, driver)
        self.embed = Embed(self.v_2)

    @property
    def base_url(self) -> str:
        """Where the requests go."""
        return self._session.base_url

    @property
    def clock_offset_sec(self) -> float | None:
        """How far the platform's clock is ahead of ours, in seconds; None as long as it did not say."""
        return self._session.clock_offset_sec

    @property
    def stats(self) -> ClientStats:
        """What this client has done so far."""
        return self._session.stats()

    async def aclose(self) -> None:
        """Closes the connections, unless they belong to an ``http_client`` that was passed in."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_credentials(self.base_url)})"
