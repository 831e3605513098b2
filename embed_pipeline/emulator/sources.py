"""From a media source to a file on this machine: http with care for where it leads, `file://` below one folder."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from embed_pipeline.emulator.links import not_media
from embed_pipeline.emulator.media_limits import size_fault
from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.settings import EmulatorSettings

_FETCH_SEC = 600.0
_REDIRECTS = 5
_BLOCK = 1 << 20
UNREACHABLE = "failed to fetch or materialize source media"

Resolver = Callable[[str, int], list[str]]


class SourceError(Exception):
    """A source could not be brought here.

    Args:
        message: The platform's words, where needed with the emulator's own reason behind them. It holds no query of a
            URL.
    """

    def __init__(self, message: str = UNREACHABLE) -> None:
        super().__init__(message)
        self.message = message


def check_url(url: str, *, media_root: Path | None, allow_private: bool, field: str) -> None:
    """Refuse at creation what this emulator must not read; nothing is fetched and no name is looked up.

    Args:
        url: The source.
        media_root: The folder below which `file://` sources may lie.
        allow_private: Whether http sources may lie on loopback or in private networks.
        field: The path of the request's field, for the message.

    Raises:
        Refusal: If the source lies where this emulator does not read.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        if media_root is None:
            raise Refusal("file:// sources need an emulator that was started with --media-root.", field)
        below_root(url, media_root, field=field)
        return
    reason = not_media(parts)
    if reason is not None:
        raise Refusal(f"{field}: {reason}.", field)
    if allow_private:
        return
    host = (parts.hostname or "").rstrip(".").lower()
    try:
        private = not _is_public(host)
    except ValueError:
        private = host == "localhost" or host.endswith(".localhost")
    if private:
        raise Refusal(
            f"{field}: the host {host} lies on this machine or in a private network; start the emulator with "
            "--allow-private-sources to let it read from there.",
            field,
        )


def below_root(url: str, media_root: Path, *, field: str = "url") -> Path:
    """Find the file that a `file://` URL names.

    Args:
        url: The source.
        media_root: The folder below which the file must lie once every link is resolved.
        field: The path of the request's field, for the message.

    Returns:
        The resolved path; whether it exists is not checked.

    Raises:
        Refusal: If it lies elsewhere. The answer is the same whether or not there is such a file.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise Refusal(f"{field}: a file:// source names no host; write file:///path/to/file.", field)
    # A name may hold `?` or `#` unescaped: a file has neither query nor fragment.
    path = unquote(url.split("://", 1)[1].removeprefix("localhost"))
    root = media_root.resolve()
    try:
        resolved = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        resolved = Path("/")
    if not resolved.is_relative_to(root):
        raise Refusal(f"{field}: a file:// source must lie below the emulator's --media-root.", field)
    return resolved


def check_reachable(url: str, settings: EmulatorSettings, *, field: str) -> None:
    """Refuse at creation a source that does not answer, as one reading of the platform's documentation has it.

    Raises:
        Refusal: If the file is not there, or the first bytes of the URL cannot be read.
    """
    try:
        if url.startswith("file:"):
            root = settings.media_root
            if root is None or not below_root(url, root, field=field).is_file():
                raise SourceError
        else:
            fetch(
                url, Path(os.devnull), limit=sys.maxsize, allow_private=settings.allow_private_sources, only_look=True
            )
    except SourceError as failure:
        raise Refusal(f"{field}: {failure.message}.", field) from failure


def size_failure(size: int, limit: int) -> SourceError:
    """The failure of a file that is too large, with the figures the platform would name. Sizes in bytes."""
    fault = size_fault(size, limit)
    return SourceError() if fault is None else SourceError(fault.message)


def fetch(
    url: str, target: Path, *, limit: int, allow_private: bool, resolve: Resolver | None = None, only_look: bool = False
) -> None:
    """Download a source.

    Every hop of a redirect is held to the same rule, and the connection goes to the very address that was checked, so
    that a name cannot lead elsewhere between check and use.

    Args:
        url: An http or https URL.
        target: Where the bytes go.
        limit: The largest size in bytes.
        allow_private: Whether loopback and private networks may be read.
        resolve: Name to addresses; replaced in tests.
        only_look: Only see whether the server would send it.

    Raises:
        SourceError: If the source cannot be read or is too large.
    """
    deadline = time.monotonic() + _FETCH_SEC
    timeout = httpx.Timeout(30.0, connect=10.0)
    # Proxies of the environment would look names up for themselves, past the check.
    with httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False) as client:
        for _ in range(_REDIRECTS + 1):
            request = _pinned_request(client, url, allow_private, resolve or _addresses)
            try:
                response = client.send(request, stream=True)
                try:
                    location = response.headers.get("location")
                    if response.is_redirect and location:
                        url = urljoin(url, location)
                        continue
                    if response.status_code != httpx.codes.OK:
                        raise SourceError(f"{UNREACHABLE} (the server answered {response.status_code})")
                    if not only_look:
                        _save(response, target, limit, deadline)
                    return
                finally:
                    response.close()
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                # The error's own text may hold the URL with its signature: only its kind is told.
                raise SourceError(f"{UNREACHABLE} ({type(error).__name__})") from None
    raise SourceError(f"{UNREACHABLE} (too many redirects)")


def _save(response: httpx.Response, target: Path, limit: int, deadline: float) -> None:
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise size_failure(int(announced), limit)
    size = 0
    with target.open("wb") as file:
        for block in response.iter_bytes(_BLOCK):
            size += len(block)
            if size > limit:
                raise size_failure(size, limit)
            if time.monotonic() > deadline:
                raise SourceError(f"{UNREACHABLE} (it took longer than {_FETCH_SEC:.0f} s)")
            file.write(block)


def _pinned_request(client: httpx.Client, url: str, allow_private: bool, resolve: Resolver) -> httpx.Request:
    """Build a request to one checked address of the URL's host."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise SourceError(f"{UNREACHABLE} (not a valid URL)") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SourceError(f"{UNREACHABLE} (it leads to something that is not http)")
    headers = {"Accept-Encoding": "identity", "Host": parsed.netloc.decode("ascii")}
    try:
        addresses = resolve(parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80))
    except OSError:
        raise SourceError(f"{UNREACHABLE} (the host {parsed.host} is not known)") from None
    if not allow_private:
        addresses = [address for address in addresses if _is_public(address)]
        if not addresses:
            raise SourceError(
                f"{UNREACHABLE} (the host {parsed.host} lies in a private network; see --allow-private-sources)"
            )
    if not addresses:
        raise SourceError(f"{UNREACHABLE} (the host {parsed.host} has no address)")
    return client.build_request(
        "GET", parsed.copy_with(host=addresses[0]), headers=headers, extensions={"sni_hostname": parsed.host}
    )


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv4 first: machines without IPv6 routes are common, and only one address is tried.
    return [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]


def _is_public(host: str) -> bool:
    """Tell whether an address may be reached from anywhere.

    Raises:
        ValueError: If it is a name, not an address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
