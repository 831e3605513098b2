"""Runs operations over httpx: the one with threads, the other with asyncio. Everything else is shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from embed_pipeline.client.errors import ConnectionFailedError
from embed_pipeline.client.exchange import Flow, Outgoing, Pause, Reply, Send, Session, Together
from embed_pipeline.client.redaction import redact

T = TypeVar("T")

# With these nothing was sent; after any other failure the platform may have seen the request.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
CONNECTIONS = httpx.Limits(max_connections=64, max_keepalive_connections=64)


def default_timeout(timeout: float | httpx.Timeout) -> httpx.Timeout:
    """The timeout as httpx wants it: a number is the longest silence while reading or writing, in seconds."""
    if isinstance(timeout, httpx.Timeout):
        return timeout
    return httpx.Timeout(timeout, connect=min(10.0, timeout), pool=None)


def _arguments(session: Session, request: Outgoing) -> dict[str, Any]:
    headers = dict(request.headers)
    if not request.foreign:
        headers["x-api-key"] = session.api_key
    arguments: dict[str, Any] = {
        "method": request.method,
        "url": request.path if request.foreign else f"{session.base_url}/{request.path}",
        "headers": headers,
    }
    params = {name: value for name, value in request.params.items() if value is not None}
    if params:
        arguments["params"] = params
    if request.json is not None:
        arguments["json"] = request.json
    if request.content is not None:
        arguments["content"] = request.content
    if request.form is not None:
        arguments["data"], arguments["files"] = request.form()
    if request.timeout_sec is not None:
        arguments["timeout"] = default_timeout(request.timeout_sec)
    return arguments


def _failed(session: Session, request: Outgoing, error: Exception) -> ConnectionFailedError:
    sent = not isinstance(error, _NOT_SENT)
    what = redact(str(error), session.api_key) or type(error).__name__
    where = "" if request.foreign else f" at {redact(session.base_url)}"
    outcome = "the answer did not arrive whole" if sent else "no connection came about"
    return ConnectionFailedError(f"{request.doing}{where}: {outcome} ({type(error).__name__}: {what}).", sent=sent)


def _reply(response: httpx.Response) -> Reply:
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


class ThreadDriver:
    """Runs operations in the calling thread, and those that go side by side in a few threads of their own."""

    def __init__(self, session: Session, http: httpx.Client) -> None:
        self._session = session
        self._http = http

    def run(self, flow: Flow[T]) -> T:
        """Runs one operation to its end and returns its result."""
        outcome: Any = None
        error: Exception | None = None
        try:
            while True:
                wanted = flow.send(outcome) if error is None else flow.throw(error)
                outcome, error = None, None
                try:
                    outcome = self._do(wanted)
                except Exception as raised:  # noqa: BLE001, RUF100 - the operation decides what it means
                    error = raised
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    def _do(self, wanted: Any) -> Any:
        if isinstance(wanted, Send):
            return self._send(wanted.request)
        if isinstance(wanted, Pause):
            return time.sleep(wanted.seconds)
        if isinstance(wanted, Together):
            return self._together(wanted.flows, wanted.at_once)
        raise TypeError(f"an operation asked for {wanted!r}")

    def _send(self, request: Outgoing) -> Reply:
        try:
            return _reply(self._http.request(**_arguments(self._session, request)))
        except (httpx.RequestError, httpx.StreamError) as error:
            raise _failed(self._session, request, error) from error

    def _together(self, flows: Sequence[Flow[Any]], at_once: int) -> list[Any]:
        with ThreadPoolExecutor(max(1, min(at_once, len(flows)))) as threads:
            running = [threads.submit(self.run, flow) for flow in flows]
            try:
                return [each.result() for each in running]
            except BaseException:
                for each in running:
                    each.cancel()
                raise


class AsyncioDriver:
    """Runs operations on the event loop."""

    def __init__(self, session: Session, http: httpx.AsyncClient) -> None:
        self._session = session
        self._http = http

    async def run(self, flow: Flow[T]) -> T:
        """Runs one operation to its end and returns its result."""
        outcome: Any = None
        error: Exception | None = None
        try:
            while True:
                wanted = flow.send(outcome) if error is None else flow.throw(error)
                outcome, error = None, None
                try:
                    outcome = await self._do(wanted)
                except Exception as raised:  # noqa: BLE001, RUF100 - the operation decides what it means
                    error = raised
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    async def _do(self, wanted: Any) -> Any:
        if isinstance(wanted, Send):
            return await self._send(wanted.request)
        if isinstance(wanted, Pause):
            return await asyncio.sleep(wanted.seconds)
        if isinstance(wanted, Together):
            return await self._together(wanted.flows, wanted.at_once)
        raise TypeError(f"an operation asked for {wanted!r}")

    async def _send(self, request: Outgoing) -> Reply:
        try:
            return _reply(await self._http.request(**_arguments(self._session, request)))
        except (httpx.RequestError, httpx.StreamError) as error:
            raise _failed(self._session, request, error) from error

    async def _together(self, flows: Sequence[Flow[Any]], at_once: int) -> list[Any]:
        places = asyncio.Semaphore(max(1, at_once))

        async def one(flow: Flow[Any]) -> Any:
            async with places:
                return await self.run(flow)

        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(one(flow)) for flow in flows]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        return [each.result() for each in running]
