"""From a media source to a file on this machine: http with care for where it leads, `file://` below one folder."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from embed_pipeline.emulator.rules.bounds import size_fault
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.rules.urls import below_root, is_file_url, is_public
from embed_pipeline.emulator.settings import EmulatorSettings

_FETCH_SEC = 600.0
_REDIRECTS = 5
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


def check_reachable(url: str, settings: EmulatorSettings, *, field: str) -> None:
    """Refuse at creation a source that does not answer, as one reading of the platform's documentation has it.

    Raises:
        Refusal: If the file is not there, or the first bytes of the URL cannot be read.
    """
    try:
        if is_file_url(url):
            if not below_root(url, settings.media_root, field=field).is_file():
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
    timeout = httpx.Timeout(30.0, connect=10.0)
    # Proxies of the environment would look names up for themselves, past the check.
    with (
        _Deadline(_FETCH_SEC) as deadline,
        httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False) as client,
    ):
        for _ in range(_REDIRECTS + 1):
            request = _pinned_request(client, url, allow_private, resolve or _addresses)
            request.extensions["trace"] = deadline.trace
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
                        _save(response, target, limit)
                    if deadline.passed:  # without a length, a connection that ends looks like a complete body
                        raise httpx.ReadTimeout("the download's time is over")
                    return
                finally:
                    response.close()
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                if deadline.passed:
                    raise SourceError(f"{UNREACHABLE} (it took longer than {_FETCH_SEC:g} s)") from None
                # The error's own text may hold the URL with its signature: only its type is shown.
                raise SourceError(f"{UNREACHABLE} ({type(error).__name__})") from None
    raise SourceError(f"{UNREACHABLE} (too many redirects)")


class _Deadline:
    """Ends a download once its time is over.

    Timeouts of httpx bound a single read: a server that sends a byte now and then would hold a worker for ever.

    Args:
        seconds: How long the download may take in all.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a connection as soon as it stands; a callback of httpx."""
        if event == "connection.connect_tcp.complete":
            with self._lock:
                self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self.passed:
                self._end()

    def _end(self) -> None:
        with self._lock:
            self.passed = True
            for connection in self._sockets:
                # Not closed, which would not wake the thread that reads from it.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _save(response: httpx.Response, target: Path, limit: int) -> None:
    announced = response.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise size_failure(int(announced), limit)
    size = 0
    with target.open("wb") as file:
        for block in response.iter_raw():
            size += len(block)
            if size > limit:
                raise size_failure(size, limit)
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
        addresses = [address for address in addresses if is_public(address)]
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


def decoded(text: str, limit: int, field: str) -> bytes:
    """Decode a source that came inside a request.

    Args:
        text: Its base64 text; white space in it does not count.
        limit: How many bytes it may have.
        field: The path of the source, for the message.

    Raises:
        Refusal: If it is no base64, empty, or larger than that.
    """
    try:
        media = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(f"{field}.base64_string is not valid base64.", f"{field}.base64_string") from None
    if not media or len(media) > limit:
        message = f"{field}.base64_string must hold from 1 to {limit} bytes once decoded, not {len(media)}."
        raise Refusal(message, f"{field}.base64_string")
    return media


def content_hash(media: bytes) -> str:
    """Return what stands for bytes that have no name."""
    return hashlib.blake2b(media, digest_size=16).hexdigest()


def local_file(
    request: AcceptedRequest,
    *,
    kept: Path,
    settings: EmulatorSettings,
    asset_path: Callable[[str], Path | None],
    limit: int | None = None,
) -> tuple[Path, bool]:
    """Bring the source of a request here.

    Args:
        request: What was asked for.
        kept: Where the bytes of a base64 source lie; what is fetched is put beside it.
        settings: What may be read.
        asset_path: Where the file of an uploaded asset lies, or None if it is not ready.
        limit: How many bytes it may have; None takes the bound of its input type.

    Returns:
        The file, and whether it is to be deleted afterwards.

    Raises:
        SourceError: If the source cannot be read, or is too large.
    """
    largest = settings.sizes.of_source(request.input_type) if limit is None else limit
    if request.source_kind == "url" and not is_file_url(request.source):
        path = kept.with_name(f"{kept.name}.fetched")
        try:
            fetch(request.source, path, limit=largest, allow_private=settings.allow_private_sources)
        except SourceError:
            path.unlink(missing_ok=True)
            raise
        return path, True
    if request.source_kind == "url":
        try:
            found: Path | None = below_root(request.source, settings.media_root)
        except Refusal as refusal:
            raise SourceError from refusal
    elif request.source_kind == "asset":
        found = asset_path(request.source)
    else:
        found = kept
    if found is None or not found.is_file():
        raise SourceError
    size = found.stat().st_size
    if size > largest:
        raise size_failure(size, largest)
    return found, False
