"""Network beneath httpx: deadlines of attempts, proxies, and the certificates of servers.

Every attempt has one deadline for connecting, sending, waiting and reading together. It moves on with the bytes that
are transferred, at the lowest rate that is accepted, so that a large answer over an honest line fits while a server
that drips a byte now and then does not.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import embed_pipeline
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    import httpx

Verify = bool | str | Path | ssl.SSLContext

# httpx takes a fifth of a second to import, so it is imported when a client is made or used, not before.

DEFAULT_TIMEOUT_SEC = 60.0
# Only what can be inflated with a bound is asked for.
DEFAULT_HEADERS = {"user-agent": f"embed-pipeline/{embed_pipeline.__version__}", "accept-encoding": "gzip, deflate"}
MIN_BYTES_PER_SEC = 65_536.0
_MAX_CONNECTIONS = 64
_LONGEST_CONNECT_SEC = 10.0
# Servers close connections that were idle for longer, and a request that crosses with that has no answer.
_KEEPALIVE_SEC = 5.0
_PIECE_BYTES = 65_536
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class AttemptTimeout:
    """Time limits of one attempt.

    Args:
        total_sec: Deadline for the whole attempt, in seconds; None for none.
        phases: Longest silence while connecting, writing, reading, and waiting for a free connection.
    """

    total_sec: float | None
    phases: httpx.Timeout

    @classmethod
    def of(cls, timeout: float | httpx.Timeout) -> AttemptTimeout:
        """Return the limits for a number of seconds in all, or for an `httpx.Timeout`, whose phases are added up.

        Raises:
            ConfigurationError: It is not a positive number.
        """
        import httpx

        if isinstance(timeout, httpx.Timeout):
            phases = (timeout.connect, timeout.write, timeout.read)
            total = None if None in phases else sum(each for each in phases if each is not None)
            return cls(total, timeout)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigurationError(f"timeout is {timeout!r}: give seconds, more than 0, or an httpx.Timeout.")
        if math.isinf(timeout):
            return cls(None, httpx.Timeout(None, connect=_LONGEST_CONNECT_SEC))
        # A connection that does not come about must be noticed before the deadline: then it is certain that nothing
        # was sent.
        connect = min(_LONGEST_CONNECT_SEC, timeout / 2)
        return cls(timeout, httpx.Timeout(timeout, connect=connect, pool=timeout / 2))


@dataclass(slots=True)
class Deadline:
    """Deadline of one attempt, which moves on with each byte that is transferred.

    Args:
        total_sec: Seconds from now; None for no deadline.
        bytes_per_sec: The lowest rate of transfer that is accepted.
        sent_bytes: Size of the request's body.
    """

    total_sec: float | None
    bytes_per_sec: float
    sent_bytes: int
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        allowed = math.inf if self.total_sec is None else self.total_sec + self.sent_bytes / self.bytes_per_sec
        self._until = time.monotonic() + allowed

    def received(self, count: int) -> None:
        """Move the deadline on."""
        self._until += count / self.bytes_per_sec

    @property
    def left_sec(self) -> float:
        """Seconds until the deadline; 0 or less if it is over, infinite if there is none."""
        return self._until - time.monotonic()

    def bound(self, timeout: float | None) -> float | None:
        """Return the shorter of a timeout and the time that is left."""
        left = self.left_sec
        if math.isinf(left):
            return timeout
        return left if timeout is None else min(timeout, left)


class _CurrentAttempt(threading.local):
    """Deadline of the attempt that this thread is making, for the streams of its connection."""

    deadline: Deadline | None = None


current_attempt = _CurrentAttempt()


def _time_for(timeout: float | None, timed_out: type[Exception]) -> float | None:
    deadline = current_attempt.deadline
    if deadline is None:
        return timeout
    bounded = deadline.bound(timeout)
    if bounded is not None and bounded <= 0:
        raise timed_out("the deadline is over")
    return bounded


class _BoundedStream:
    """Network stream for httpcore whose every operation ends by the deadline of the attempt.

    It also decides when an idle connection is given up, and then takes no further request: httpcore's pool may close a
    connection that another thread is just about to use, and a request that was sent on it would have no answer.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._awaits_answer = False
        self._given_up = False
        self._quiet_since = time.monotonic()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        content: bytes = self._stream.read(max_bytes, timeout=_time_for(timeout, httpcore.ReadTimeout))
        self._awaits_answer = False
        self._quiet_since = time.monotonic()
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        import httpcore

        with self._lock:
            if self._given_up:
                raise httpcore.ConnectionNotAvailable
            self._awaits_answer = True
        for start in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[start : start + _PIECE_BYTES]
            self._stream.write(piece, timeout=_time_for(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _BoundedStream:
        import httpcore

        bounded = _time_for(timeout, httpcore.ConnectTimeout)
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, bounded))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return self._stream.get_extra_info(info)
        # httpcore asks this of idle connections only, and closes one of which it is true.
        with self._lock:
            if self._awaits_answer:
                return False
            if time.monotonic() - self._quiet_since > _KEEPALIVE_SEC or self._stream.get_extra_info("is_readable"):
                self._given_up = True
            return self._given_up


class _BoundedBackend:
    """Network backend for httpcore that makes bounded streams."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _BoundedStream:
        import httpcore

        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        # Each address is tried for as long as is left, and not, as by itself, for the whole time again.
        until = math.inf if timeout is None else time.monotonic() + timeout
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in dict.fromkeys(str(each[4][0]) for each in found):
            left = None if math.isinf(until) else until - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                bounded = _time_for(left, httpcore.ConnectTimeout)
                return _BoundedStream(self._backend.connect_tcp(address, port, timeout=bounded, **options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> _BoundedStream:
        return _BoundedStream(self._backend.connect_unix_socket(path, timeout=timeout, **options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


def is_loopback(host: str) -> bool:
    """Return True if a host name or address is this machine."""
    host = host.strip("[]").lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Network:
    """Settings of the network: which proxy serves a URL, and whom to trust.

    Args:
        proxy: URL of a proxy for everything but this machine; None for what the environment says (`HTTP_PROXY`,
            `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
        verify: Certificates to trust: a file or folder of them, or an `ssl.SSLContext`; True for `SSL_CERT_FILE`,
            `SSL_CERT_DIR` or else the usual authorities; False for no check.
    """

    def __init__(self, proxy: str | None = None, verify: Verify = True) -> None:
        self._proxy = None if proxy is None else _checked_proxy(proxy, "proxy")
        self._verify = verify
        self._environment = urllib.request.getproxies() if proxy is None else {}
        self._chosen: dict[tuple[str, str, int | None], str | None] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        if isinstance(verify, str | Path) and not Path(verify).exists():
            raise ConfigurationError(f"There is no file or folder of certificates {str(verify)!r} (verify).")

    def proxy_for(self, url: httpx.URL) -> str | None:
        """Return the URL of the proxy that serves a URL, or None if it is reached directly.

        Raises:
            ConfigurationError: The environment names a proxy of an unknown kind.
        """
        address = (url.scheme, url.host, url.port)
        if address not in self._chosen:
            self._chosen[address] = self._choose(*address)
        return self._chosen[address]

    def _choose(self, scheme: str, host: str, port: int | None) -> str | None:
        if is_loopback(host):
            return None
        if self._proxy is not None:
            return self._proxy
        name = scheme if self._environment.get(scheme) else "all"
        proxy = self._environment.get(name)
        if not proxy or urllib.request.proxy_bypass(host if port is None else f"{host}:{port}"):
            return None
        return _checked_proxy(proxy, f"{name.upper()}_PROXY")

    def transport_options(self, scheme: str, proxy: str | None, keepalive_sec: float | None) -> dict[str, Any]:
        """Return the arguments for httpx's transport of either kind.

        Raises:
            ConfigurationError: The certificates cannot be read.
        """
        import httpx

        # Reading the authorities takes longer than a request to this machine, and plain HTTP does not need them.
        encrypted = scheme == "https" or (proxy is not None and proxy.startswith("https:"))
        context = self._ssl_context() if encrypted else None
        limits = httpx.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_CONNECTIONS,
            keepalive_expiry=keepalive_sec,
        )
        options: dict[str, Any] = {"verify": context or False, "limits": limits, "trust_env": False}
        if proxy is not None:
            options["proxy"] = httpx.Proxy(proxy, ssl_context=context if proxy.startswith("https:") else None)
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        import httpx

        with self._lock:
            if self._context is None:
                try:
                    if isinstance(self._verify, ssl.SSLContext):
                        self._context = self._verify
                    elif isinstance(self._verify, bool):
                        self._context = httpx.create_ssl_context(verify=self._verify)
                    else:
                        path = str(self._verify)
                        self._context = (
                            ssl.create_default_context(capath=path)
                            if Path(path).is_dir()
                            else ssl.create_default_context(cafile=path)
                        )
                except OSError as error:  # an ssl.SSLError is one as well
                    source = "SSL_CERT_FILE or SSL_CERT_DIR" if self._verify is True else f"{str(self._verify)!r}"
                    raise ConfigurationError(f"The certificates of {source} cannot be read ({error}).") from error
            return self._context


def _checked_proxy(proxy: str, source: str) -> str:
    url = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(url).scheme.lower()
    if scheme not in _PROXY_SCHEMES or not urlsplit(url).hostname:
        raise ConfigurationError(
            f"The proxy {without_credentials(url)} ({source}) is none of {', '.join(_PROXY_SCHEMES)}."
        )
    return url


def _no_socks(proxy: str) -> ConfigurationError:
    return ConfigurationError(
        f"The proxy {without_credentials(proxy)} speaks SOCKS, which needs the package socksio: install httpx[socks], "
        "name an HTTP proxy, or exempt the host with NO_PROXY."
    )


class _Routes:
    """Transport for `httpx.Client` that sends each request through the proxy of its URL, by the attempt's deadline."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._transports: dict[tuple[str, str | None], Any] = {}

    def transport_for(self, url: httpx.URL) -> Any:
        """Return the transport for a URL."""
        scheme, proxy = url.scheme, self._network.proxy_for(url)
        with self._lock:
            if (scheme, proxy) not in self._transports:
                self._transports[scheme, proxy] = self._make(scheme, proxy)
            return self._transports[scheme, proxy]

    def _make(self, scheme: str, proxy: str | None) -> Any:
        import httpx

        options = self._network.transport_options(scheme, proxy, None)  # the streams know
        try:
            transport = httpx.HTTPTransport(**options)
        except ImportError:
            raise _no_socks(proxy or "") from None
        # httpx has no public way to pass a network backend to its pool.
        pool: Any = transport._pool
        pool._network_backend = _BoundedBackend(pool._network_backend)
        return transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = self.transport_for(request.url).handle_request(request)
        return response

    def __enter__(self) -> _Routes:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class _AsyncRoutes:
    """The same as `_Routes` for `httpx.AsyncClient`; the deadline is the event loop's business."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._transports: dict[tuple[str, str | None], Any] = {}

    def transport_for(self, url: httpx.URL) -> Any:
        """Return the transport for a URL."""
        scheme, proxy = url.scheme, self._network.proxy_for(url)
        if (scheme, proxy) not in self._transports:
            import httpx

            try:
                transport = httpx.AsyncHTTPTransport(**self._network.transport_options(scheme, proxy, _KEEPALIVE_SEC))
            except ImportError:
                raise _no_socks(proxy or "") from None
            self._transports[scheme, proxy] = transport
        return self._transports[scheme, proxy]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await self.transport_for(request.url).handle_async_request(request)
        return response

    async def __aenter__(self) -> _AsyncRoutes:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def make_http_client(network: Network, base_url: str) -> httpx.Client:
    """Return a client of httpx for operations in threads.

    Raises:
        ConfigurationError: The proxy or the certificates for this address cannot be used.
    """
    import httpx

    routes: Any = _Routes(network)
    routes.transport_for(httpx.URL(base_url))
    return httpx.Client(transport=routes, trust_env=False, headers=DEFAULT_HEADERS)


def make_async_http_client(network: Network, base_url: str) -> httpx.AsyncClient:
    """Return a client of httpx for operations on an event loop.

    Raises:
        ConfigurationError: The proxy or the certificates for this address cannot be used.
    """
    import httpx

    routes: Any = _AsyncRoutes(network)
    routes.transport_for(httpx.URL(base_url))
    return httpx.AsyncClient(transport=routes, trust_env=False, headers=DEFAULT_HEADERS)
