"""The client itself, once with threads and once for asyncio."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from embed_pipeline.client.assets import (
    AssetsClient,
    AsyncAssetsClient,
    AsyncMultipartUploadClient,
    MultipartUploadClient,
)
from embed_pipeline.client.exchange import ClientStats, CreateRegistry, Session
from embed_pipeline.client.limits import EMBED, Budget, Limits, RetryPolicy
from embed_pipeline.client.tasks import AsyncTasksClient, TasksClient
from embed_pipeline.client.transport import (
    DEFAULT_TIMEOUT_SEC,
    MAX_BODY_BYTES,
    MIN_BYTES_PER_SEC,
    AsyncioDriver,
    AttemptTimeout,
    Network,
    ThreadDriver,
    Verify,
    make_async_http_client,
    make_http_client,
)
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.redaction import guard_httpx_log, without_credentials

if TYPE_CHECKING:
    import httpx

PLATFORM_URL = "https://api.twelvelabs.io/v1.3"
_KEY_NAMES = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY", "TWELVELABS_API_KEY")
_URL_NAMES = ("EMBED_BASE_URL", "TWELVELABS_BASE_URL")
Tasks = TypeVar("Tasks")


def _from_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _checked_key(api_key: str | None) -> str:
    # What is passed in counts, even if it is empty: falling back to the platform's address would cost money.
    key = api_key.strip() if api_key is not None else _from_environment(_KEY_NAMES)
    if not key:
        raise ConfigurationError(
            "There is no API key: pass api_key, or set EMBED_API_KEY (or TWELVE_LABS_API_KEY). "
            "The emulator takes any key."
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigurationError("The API key holds characters that do not fit into a header: copy it again.")
    return key


def _checked_url(base_url: str | httpx.URL | None) -> str:
    url = str(base_url) if base_url is not None else _from_environment(_URL_NAMES) or PLATFORM_URL
    url = url.strip().rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"The base URL {without_credentials(url)!r} does not begin with http:// or https://.")
    import httpx

    try:
        has_host = bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        has_host = False
    if not has_host:
        raise ConfigurationError(f"The base URL {without_credentials(url)!r} has no host.")
    return url


@dataclass(frozen=True)
class Version2(Generic[Tasks]):
    """`client.v_2`: the second generation of the Embed API.

    Args:
        tasks: Asynchronous embedding tasks.
    """

    tasks: Tasks


@dataclass(frozen=True)
class Embed(Generic[Tasks]):
    """`client.embed`, so that the official SDK's `client.embed.v_2.tasks` works unchanged.

    Args:
        v_2: The same as `client.v_2`.
    """

    v_2: Version2[Tasks]


class _Client:
    """Common to both clients: the settings, and the properties that need no request."""

    def __init__(
        self,
        *,
        own_http: httpx.Client | httpx.AsyncClient | None,
        http_kind: str,
        api_key: str | None,
        base_url: str | httpx.URL | None,
        timeout: float | httpx.Timeout | None,
        retries: RetryPolicy | None,
        limits: Limits | Budget | str | None,
        proxy: str | httpx.URL | None,
        verify: Verify,
        max_body_bytes: int,
        min_bytes_per_sec: float,
    ) -> None:
        import httpx

        guard_httpx_log()
        key, url = _checked_key(api_key), _checked_url(base_url)
        if own_http is not None and not isinstance(own_http, getattr(httpx, http_kind)):
            name = f"{type(own_http).__module__.partition('.')[0]}.{type(own_http).__name__}"
            raise ConfigurationError(f"{type(self).__name__} takes an httpx.{http_kind} as http_client, not {name}.")
        if own_http is not None and (proxy is not None or verify is not True):
            raise ConfigurationError(
                "proxy and verify are settings of the http_client that was passed in: set them there."
            )
        if timeout is None:
            timeout = DEFAULT_TIMEOUT_SEC if own_http is None else own_http.timeout
        for name, value in (("max_body_bytes", max_body_bytes), ("min_bytes_per_sec", min_bytes_per_sec)):
            if not value > 0:
                raise ConfigurationError(f"{name} is {value}: give a number above 0.")
        if isinstance(limits, str):
            limits = Limits.plan(limits)
        attempt = AttemptTimeout.of(timeout)
        self._session = Session(
            base_url=url,
            api_key=key,
            retries=retries or RetryPolicy(),
            budget=limits if isinstance(limits, Budget) else Budget.shared(url, key, limits or Limits()),
            deadline_sec=attempt.total_sec,
            min_bytes_per_sec=min_bytes_per_sec,
            registry=CreateRegistry.shared(url, key),
        )
        self._owns_http = own_http is None
        self._network = Network(None if proxy is None else str(proxy), verify)
        self._driver_settings: dict[str, Any] = {
            "network": self._network if own_http is None else None,
            "timeout": attempt,
            "max_body_bytes": max_body_bytes,
        }

    @property
    def base_url(self) -> str:
        """Address of the API, as it was given."""
        return self._session.base_url

    @property
    def clock_offset_sec(self) -> float | None:
        """Seconds that the platform's clock is ahead of ours; None as long as it is not known."""
        return self._session.clock_offset_sec

    @property
    def stats(self) -> ClientStats:
        """Figures of this client so far."""
        return self._session.stats()

    @property
    def paused_until(self) -> datetime | None:
        """End of the pause of creates that the platform asked for (UTC); None if there is none.

        The clients of a process with the same key, address and limits share their pauses.
        """
        now = self._session.monotonic()
        until = self._session.budget.paused_until(EMBED, now)
        return None if until is None else self._session.now() + timedelta(seconds=until - now)

    def resume(self) -> None:
        """End a pause that the platform asked for before its time, for all clients that share it."""
        self._session.budget.resume()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({without_credentials(self.base_url)})"


class EmbedClient(_Client):
    """Client for the platform's Embed API v2.

    One client may serve many threads, and should: they share connections and limits.

    Args:
        api_key: Else `EMBED_API_KEY`, else `TWELVE_LABS_API_KEY`, else `TWELVELABS_API_KEY`.
        base_url: With `/v1.3`; else `EMBED_BASE_URL`, else `TWELVELABS_BASE_URL`, else the platform's own.
        timeout: Deadline of each attempt (connect, send, wait and read together), in seconds; it moves on with the
            bytes that are transferred, see `min_bytes_per_sec`. Or an `httpx.Timeout`: then each phase is bounded by
            itself as well, and the deadline is their sum. None for 60 s, or for the timeout of `http_client`.
        retries: What is tried again, how often and how long.
        limits: A plan's name, `Limits`, or a `Budget` of your own; by default nothing is assumed and only the
            platform's answers count. Clients of one process with the same key, address and limits share one budget.
        http_client: An `httpx.Client` of your own, which you close yourself. The headers of an answer are then bounded
            by the longest silence, and the body by the deadline.
        proxy: URL of a proxy; None for what the environment says. This machine is always reached directly.
        verify: A file or folder of certificates to trust, an `ssl.SSLContext`, or False to check none; True for
            `SSL_CERT_FILE`, `SSL_CERT_DIR`, or else the usual authorities.
        max_body_bytes: The largest answer that is read, in bytes, as sent and as inflated. The default, 512 MiB, holds
            the longest legal result: four hours in segments of 2 s with three options and uncertainties.
        min_bytes_per_sec: The lowest rate of transfer that moves the deadline on, in bytes a second.

    Raises:
        ConfigurationError: There is no key, or a setting makes no sense.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | httpx.URL | None = None,
        timeout: float | httpx.Timeout | None = None,
        retries: RetryPolicy | None = None,
        limits: Limits | Budget | str | None = None,
        http_client: httpx.Client | None = None,
        proxy: str | httpx.URL | None = None,
        verify: Verify = True,
        max_body_bytes: int = MAX_BODY_BYTES,
        min_bytes_per_sec: float = MIN_BYTES_PER_SEC,
    ) -> None:
        super().__init__(
            own_http=http_client,
            http_kind="Client",
            api_key=api_key,
            base_url=base_url,
            timeout=timeout,
            retries=retries,
            limits=limits,
            proxy=proxy,
            verify=verify,
            max_body_bytes=max_body_bytes,
            min_bytes_per_sec=min_bytes_per_sec,
        )
        self._http = http_client or make_http_client(self._network, self.base_url)
        driver = ThreadDriver(self._session, self._http, **self._driver_settings)
        self.v_2 = Version2(TasksClient(self._session, driver))
        self.assets = AssetsClient(self._session, driver)
        self.multipart_upload = MultipartUploadClient(self._session, driver)
        self.embed = Embed(self.v_2)

    def close(self) -> None:
        """Close the connections, unless they belong to an `http_client` that was passed in."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncEmbedClient(_Client):
    """The same for asyncio. It shares its limits with the other clients of the process, whether asyncio or threads.

    Args:
        api_key: As for `EmbedClient`.
        base_url: As for `EmbedClient`.
        timeout: As for `EmbedClient`.
        retries: As for `EmbedClient`.
        limits: As for `EmbedClient`.
        http_client: An `httpx.AsyncClient` of your own, which you close yourself.
        proxy: As for `EmbedClient`.
        verify: As for `EmbedClient`.
        max_body_bytes: As for `EmbedClient`.
        min_bytes_per_sec: As for `EmbedClient`.

    Raises:
        ConfigurationError: There is no key, or a setting makes no sense.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | httpx.URL | None = None,
        timeout: float | httpx.Timeout | None = None,
        retries: RetryPolicy | None = None,
        limits: Limits | Budget | str | None = None,
        http_client: httpx.AsyncClient | None = None,
        proxy: str | httpx.URL | None = None,
        verify: Verify = True,
        max_body_bytes: int = MAX_BODY_BYTES,
        min_bytes_per_sec: float = MIN_BYTES_PER_SEC,
    ) -> None:
        super().__init__(
            own_http=http_client,
            http_kind="AsyncClient",
            api_key=api_key,
            base_url=base_url,
            timeout=timeout,
            retries=retries,
            limits=limits,
            proxy=proxy,
            verify=verify,
            max_body_bytes=max_body_bytes,
            min_bytes_per_sec=min_bytes_per_sec,
        )
        self._http = http_client or make_async_http_client(self._network, self.base_url)
        driver = AsyncioDriver(self._session, self._http, **self._driver_settings)
        self.v_2 = Version2(AsyncTasksClient(self._session, driver))
        self.assets = AsyncAssetsClient(self._session, driver)
        self.multipart_upload = AsyncMultipartUploadClient(self._session, driver)
        self.embed = Embed(self.v_2)

    async def aclose(self) -> None:
        """Close the connections, unless they belong to an `http_client` that was passed in."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
