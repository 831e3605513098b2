"""Makes the asyncio client callable like the one with threads, so that both pass the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

from embed_pipeline.client import AsyncEmbedClient


class _Blocking:
    def __init__(self, loop: asyncio.AbstractEventLoop, target: Any) -> None:
        self._loop = loop
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*args: Any, **keywords: Any) -> Any:
            outcome = value(*args, **keywords)
            if inspect.isawaitable(outcome):
                outcome = self.run(outcome)
            return self._iterate(outcome) if hasattr(outcome, "__aiter__") else outcome

        return call

    def run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(60)

    def _iterate(self, iterable: Any) -> Iterator[Any]:
        async def collect() -> list[Any]:
            return [each async for each in iterable]

        return iter(self.run(collect()))


class AsyncioClient:
    """An ``AsyncEmbedClient`` on an event loop in a thread of its own."""

    def __init__(self, **keywords: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = AsyncEmbedClient(**keywords)
        self.assets = _Blocking(self._loop, self._client.assets)
        self.tasks = _Blocking(self._loop, self._client.v_2.tasks)
        self.v_2 = self

    def cancel_once(self, ready: threading.Event, call: Callable[[Any], Any]) -> None:
        """Runs a call of ``client.v_2.tasks`` and cancels it once ``ready`` is set."""

        async def run() -> None:
            running = asyncio.ensure_future(call(self._client.v_2.tasks))
            await asyncio.to_thread(ready.wait, 10)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            assert running.cancelled()

        self.tasks.run(run())

    @property
    def paused_until(self) -> Any:
        return self._client.paused_until

    def resume(self) -> None:
        self._client.resume()

    @property
    def stats(self) -> Any:
        return self._client.stats

    def close(self) -> None:
        self.tasks.run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def __enter__(self) -> AsyncioClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
