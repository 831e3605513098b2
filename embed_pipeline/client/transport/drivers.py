"""Drivers that run operations over httpx: one with threads, one with asyncio. Everything else is shared."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from embed_pipeline.client.errors import ClientClosedError, ConnectionFailedError, UnreadableResponseError
from embed_pipeline.client.exchange import Call, Flow, Outgoing, Pause, Reply, Send, Session, Together
from embed_pipeline.client.transport.network import (
    DEFAULT_HEADERS,
    AttemptTimeout,
    Deadline,
    Network,
    current_attempt,
)
from embed_pipeline.redaction import redact, without_credentials

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

# The longest legal result as JSON: four hours in segments of 2 s, three options, 512 numbers of up to 24 characters,
# and as many uncertainties: 7,200 x 3 x 1,024 x 24 = 531 million bytes, and 2 million bytes of names and times.
MAX_BODY_BYTES = 512 * 1024 * 1024
# With these nothing was sent; after any other failure the platform may have seen the request.
_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"}
)
_INFLATED_AT_ONCE = 1 << 20


class _Body:
    """Body of an answer, inflated as it arrives and never larger than the bound.

    Args:
        doing: What was asked, for errors.
        encoding: The answer's `Content-Encoding`.
        max_bytes: The bound, for the bytes as sent and as inflated.
    """

    def __init__(self, doing: str, encoding: str, max_bytes: int) -> None:
        self._doing = doing
        self._max_bytes = max_bytes
        self._inflater: Any = None
        self._encoding = encoding.strip().lower()
        self._raw_bytes = 0
        # Grows in place, where a list of pieces would be held twice while it is joined.
        self._content = bytearray()
        if self._encoding in ("gzip", "x-gzip"):
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif self._encoding not in ("", "identity", "deflate"):
            raise UnreadableResponseError(
                f"The answer to {doing} is encoded as {encoding!r}, which was not asked for.", retryable=False
            )

    def feed(self, piece: bytes) -> None:
        """Take up bytes as they were sent.

        Raises:
            UnreadableResponseError: The body is larger than the bound.
            ConnectionFailedError: The bytes cannot be inflated.
        """
        self._raw_bytes += len(piece)
        if self._raw_bytes > self._max_bytes:
            raise self._too_large()
        if self._encoding == "deflate" and self._inflater is None and piece:
            # Servers send both forms under this name: the second half of a zlib header is a check of the first.
            has_header = len(piece) > 1 and (piece[0] << 8 | piece[1]) % 31 == 0 and piece[0] & 0x0F == 8
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        if self._inflater is None:
            self._content += piece
            return
        while piece:
            try:
                self._content += self._inflater.decompress(piece, _INFLATED_AT_ONCE)
            except zlib.error as error:
                raise self._broken(str(error)) from error
            if len(self._content) > self._max_bytes:
                raise self._too_large()
            piece = self._inflater.unconsumed_tail

    def finish(self) -> bytearray:
        """Return the whole body, inflated.

        Raises:
            ConnectionFailedError: The compressed body is cut off.
        """
        if self._inflater is not None and self._raw_bytes and not self._inflater.eof:
            raise self._broken("it is cut off")
        return self._content

    def _broken(self, why: str) -> ConnectionFailedError:
        return ConnectionFailedError(f"{self._doing}: the body of the answer cannot be inflated ({why}).")

    def _too_large(self) -> UnreadableResponseError:
        return UnreadableResponseError(
            f"The answer to {self._doing} is larger than {self._max_bytes} bytes (max_body_bytes), so it was given up "
            f"after {self._raw_bytes} bytes as sent and {len(self._content)} as inflated.",
            retryable=False,
        )


class _Driver:
    """Common to both drivers: what a request and its errors look like to httpx.

    Args:
        session: The client's shared state.
        network: Which proxy serves a URL; None where the client of httpx is the caller's own.
        timeout: Time limits of an attempt that has none of its own.
        max_body_bytes: The bound for a body.
    """

    def __init__(
        self, session: Session, *, network: Network | None, timeout: AttemptTimeout, max_body_bytes: int
    ) -> None:
        self._session = session
        self._network = network
        self._timeout = timeout
        self._max_body_bytes = max_body_bytes

    def _url(self, request: Outgoing) -> str:
        return request.path if request.foreign else f"{self._session.base_url}/{request.path}"

    def _arguments(self, request: Outgoing, timeout: AttemptTimeout) -> dict[str, Any]:
        # The caller's own client of httpx does not have them.
        headers = {**request.headers} if self._network is not None else {**DEFAULT_HEADERS, **request.headers}
        if not request.foreign:
            headers["x-api-key"] = self._session.api_key
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self._url(request),
            "headers": headers,
            "timeout": timeout.phases,
        }
        params = {name: value for name, value in request.params.items() if value is not None}
        if params:
            arguments["params"] = params
        if request.json is not None:
            arguments["json"] = request.json
        if request.content is not None:
            arguments["content"] = request.content
        return arguments

    def _attempt_timeout(self, request: Outgoing) -> AttemptTimeout:
        return self._timeout if request.timeout_sec is None else AttemptTimeout.of(request.timeout_sec)

    def _deadline(self, request: Outgoing, timeout: AttemptTimeout) -> Deadline:
        return Deadline(timeout.total_sec, self._session.min_bytes_per_sec, request.body_bytes)

    def _body(self, request: Outgoing, headers: Mapping[str, str]) -> _Body:
        return _Body(request.doing, headers.get("content-encoding", ""), self._max_body_bytes)

    def _reply(self, response: httpx.Response, content: bytes | bytearray, request: Outgoing) -> Reply:
        if len(content) > self._max_body_bytes:
            raise UnreadableResponseError(
                f"The answer to {request.doing} is larger than {self._max_body_bytes} bytes (max_body_bytes).",
                retryable=False,
            )
        proxy = None if response.is_success else self._proxy_of(request)
        return Reply(response.status_code, dict(response.headers.items()), content, proxy=proxy)

    def _proxy_of(self, request: Outgoing) -> str | None:
        import httpx

        proxy = self._network.proxy_for(httpx.URL(self._url(request))) if self._network is not None else None
        return without_credentials(proxy) if proxy is not None else None

    def _failed(self, request: Outgoing, error: Exception, deadline: Deadline) -> ConnectionFailedError:
        sent = not any(kind.__name__ in _NOT_SENT for kind in type(error).__mro__)
        what = redact(str(error), self._session.api_key)
        if deadline.left_sec <= 0 and deadline.total_sec is not None:
            what = f"the deadline of {deadline.total_sec:g} s is over"
        where = "" if request.foreign else f" at {redact(self._session.base_url)}"
        if (proxy := self._proxy_of(request)) is not None:
            where += f" through the proxy {proxy}"
        outcome = "the answer did not arrive whole" if sent else "no connection came about"
        name = type(error).__name__
        shown = f"{name}: {what}" if what and what != name else name
        return ConnectionFailedError(f"{request.doing}{where}: {outcome} ({shown}).", sent=sent)


@contextlib.contextmanager
def _form_of(request: Outgoing, arguments: dict[str, Any]) -> Iterator[None]:
    """Put the parts of a form into the arguments, and close the files that were opened for them."""
    if request.form is None:
        yield
        return
    with contextlib.ExitStack() as opened:
        arguments["files"] = request.form(opened)
        yield


def _check_open(http: Any, flow: Flow[Any]) -> None:
    if http.is_closed:
        flow.close()
        raise ClientClosedError("This client is closed: make a new one, or keep it open while it is used.")


class ThreadDriver(_Driver):
    """Driver that runs operations in the calling thread, and those that go side by side in a few threads of its own."""

    def __init__(self, session: Session, http: httpx.Client, **settings: Any) -> None:
        super().__init__(session, **settings)
        self._http = http

    def run(self, flow: Flow[T]) -> T:
        """Run one operation to its end and return its result."""
        _check_open(self._http, flow)
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

        timeout = self._attempt_timeout(request)
        arguments = self._arguments(request, timeout)
        with _form_of(request, arguments):
            deadline = current_attempt.deadline = self._deadline(request, timeout)
            try:
                response = self._http.send(self._http.build_request(**arguments), stream=True)
                try:
                    return self._reply(response, self._read(request, response, deadline), request)
                finally:
                    response.close()
            except (httpx.RequestError, httpx.StreamError) as error:
                raise self._failed(request, error, deadline) from error
            finally:
                current_attempt.deadline = None

    def _read(self, request: Outgoing, response: httpx.Response, deadline: Deadline) -> bytes | bytearray:
        import httpx

        if response.is_stream_consumed:  # by a transport without a network, or by a hook of the caller's own client
            return response.content
        body = self._body(request, response.headers)
        for piece in response.iter_raw(request.chunk_size):
            body.feed(piece)
            deadline.received(len(piece))
            if deadline.left_sec <= 0:
                raise httpx.ReadTimeout("the deadline is over")
        return body.finish()

    def _together(self, flows: Sequence[Flow[Any]], at_once: int) -> list[Any]:
        with ThreadPoolExecutor(max(1, min(at_once, len(flows)))) as threads:
            running = [threads.submit(self.run, flow) for flow in flows]
            try:
                return [each.result() for each in running]
            except BaseException:
                for each in running:
                    each.cancel()
                raise


class AsyncioDriver(_Driver):
    """Driver that runs operations on the event loop."""

    def __init__(self, session: Session, http: httpx.AsyncClient, **settings: Any) -> None:
        super().__init__(session, **settings)
        self._http = http

    async def run(self, flow: Flow[T]) -> T:
        """Run one operation to its end and return its result."""
        _check_open(self._http, flow)
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

        timeout = self._attempt_timeout(request)
        arguments = self._arguments(request, timeout)
        with _form_of(request, arguments):
            deadline = self._deadline(request, timeout)
            bound = asyncio.timeout(None if timeout.total_sec is None else deadline.left_sec)
            try:
                async with bound:
                    response = await self._http.send(self._http.build_request(**arguments), stream=True)
                    try:
                        return self._reply(response, await self._read(request, response, deadline, bound), request)
                    finally:
                        await response.aclose()
            except (httpx.RequestError, httpx.StreamError) as error:
                raise self._failed(request, error, deadline) from error
            except TimeoutError as error:
                if not bound.expired():
                    raise
                raise self._failed(request, httpx.ReadTimeout("the deadline is over"), deadline) from error

    async def _read(
        self, request: Outgoing, response: httpx.Response, deadline: Deadline, bound: asyncio.Timeout
    ) -> bytes | bytearray:
        if response.is_stream_consumed:
            return response.content
        body = self._body(request, response.headers)
        async for piece in response.aiter_raw(request.chunk_size):
            body.feed(piece)
            deadline.received(len(piece))
            if deadline.total_sec is not None:
                bound.reschedule(asyncio.get_running_loop().time() + deadline.left_sec)
        return body.finish()

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
