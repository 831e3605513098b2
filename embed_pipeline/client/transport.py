"""Runs operations over httpx: the one with threads, the other with asyncio. Everything else is shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from embed_pipeline.client.errors import ConnectionFailedError
from embed_pipeline.client.exchange import Call, Flow, Outgoing, Pause, Reply, Send, Session, Together
from embed_pipeline.redaction import redact

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

# httpx takes a fifth of a second to import, so it is imported when a client is made or used, not before.

# With these nothing was sent; after any other failure the platform may have seen the request.
_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"}
)
_MAX_CONNECTIONS = 64


def connection_limits() -> httpx.Limits:
    """As many connections as a thread pool of a usual size may want, all of them kept open."""
    import httpx

    return httpx.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)


def read_timeout(timeout: float | httpx.Timeout) -> httpx.Timeout:
    """The timeout as httpx wants it: a number is the longest silence while reading or writing, in seconds."""
    import httpx

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
        arguments["files"] = request.form()
    if request.timeout_sec is not None:
        arguments["timeout"] = read_timeout(request.timeout_sec)
    return arguments


def _close_files(arguments: dict[str, Any]) -> None:
    for part in arguments.get("files", {}).values():
        if hasattr(part[1], "close"):
            part[1].close()


def _failed(session: Session, request: Outgoing, error: Exception) -> ConnectionFailedError:
    sent = not any(kind.__name__ in _NOT_SENT for kind in type(error).__mro__)
    what = redact(str(error), session.api_key) or type(error).__name__
    where = "" if request.foreign else f" at {redact(session.base_url)}"
    outcome = "the answer did not arrive whole" if sent else "no connection came about"
    return ConnectionFailedError(f"{request.doing}{where}: {outcome} ({type(error).__name__}: {what}).", sent=sent)


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, dict(response.headers.items()), response.content)


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
        if isinstance(wanted, Call):
            return wanted.function()
        if isinstance(wanted, Together):
            return self._together(wanted.flows, wanted.at_once)
        raise TypeError(f"an operation asked for {wanted!r}")

    def _send(self, request: Outgoing) -> Reply:
        import httpx

        arguments = _arguments(self._session, request)
        try:
            return _reply(self._http.request(**arguments))
        except (httpx.RequestError, httpx.StreamError) as error:
            raise _failed(self._session, request, error) from error
        finally:
            _close_files(arguments)

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
        if isinstance(wanted, Call):
            return await asyncio.to_thread(wanted.function)
        if isinstance(wanted, Together):
            return await self._together(wanted.flows, wanted.at_once)
        raise TypeError(f"an operation asked for {wanted!r}")

    async def _send(self, request: Outgoing) -> Reply:
        import httpx

        arguments = _arguments(self._session, request)
        try:
            return _reply(await self._http.request(**arguments))
        except (httpx.RequestError, httpx.StreamError) as error:
            raise _failed(self._session, request, error) from error
        finally:
            _close_files(arguments)

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
