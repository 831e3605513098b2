"""For the tests of those who use this package: the emulator inside the test's own process, and as a server.

The fixtures come with the package (a pytest plugin); nothing is to be imported or configured:

    def test_a_finished_task_is_collected(embed_emulator):
        client = embed_emulator.client()
        task = client.v_2.tasks.create(
            input_type="video",
            model_name="marengo3.0",
            video=VideoInputRequest(media_source=MediaSource(url="https://media.example.com/talk.mp4")),
        )
        assert client.v_2.tasks.retrieve(task.id).status == "processing"
        embed_emulator.finish()
        assert client.v_2.tasks.retrieve(task.id).status == "ready"
        assert embed_emulator.summary()["tasks_created"] == 1
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from embed_pipeline.emulator import Emulator, EmulatorSettings, Timing
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

    from embed_pipeline.client import AsyncEmbedClient, EmbedClient
    from embed_pipeline.emulator.platform import Platform
    from embed_pipeline.emulator.state.tasks import Task
    from embed_pipeline.emulator.work.compute import Compute

_ORIGIN = "http://emulator.test"
_FINISH_SEC = 60.0

TEST_SETTINGS = EmulatorSettings(
    engine="instant", instant_duration_sec=60.0, workers=1, timing=Timing(on_command=True), allow_private_sources=True
)
"""Settings of the fixtures: a minute of media from every source, unread; tasks finish on command."""


class InProcessEmulator:
    """An emulator without a socket: requests reach it through `transport` alone. No port, no waiting.

    Args:
        settings: What it is told. None takes `TEST_SETTINGS`.
        compute: What embeds a file. None takes the engine that the settings name.
    """

    base_url = f"{_ORIGIN}/v1.3"

    def __init__(self, settings: EmulatorSettings | None = None, *, compute: Compute | None = None) -> None:
        from embed_pipeline.emulator.api.app import build_app
        from embed_pipeline.emulator.platform import Platform
        from embed_pipeline.emulator.state.clock import Clock

        # Time stands still between advances: a test that looks at times is the same on every machine.
        settings = settings or TEST_SETTINGS
        clock = Clock(frozen_at=time.time_ns() // 1_000_000, skew_sec=settings.clock_skew_sec)
        self.platform: Platform = Platform(settings, compute=compute, clock=clock)
        self.platform.start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embed-emulator-loop", daemon=True)
        self._thread.start()
        self._application = build_app(self.platform)

    def transport(self) -> httpx.BaseTransport:
        """Return a transport for `httpx.Client(transport=...)`."""
        from embed_pipeline.emulator.api.transport import EmulatorTransport

        return EmulatorTransport(self._serve)

    def async_transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport for `httpx.AsyncClient(transport=...)`."""
        from embed_pipeline.emulator.api.transport import AsyncEmulatorTransport

        return AsyncEmulatorTransport(self._serve)

    def client(self, **options: Any) -> EmbedClient:
        """Return a client of this emulator.

        Args:
            **options: Further keyword arguments of `EmbedClient`.
        """
        import httpx

        from embed_pipeline.client import EmbedClient

        connection = httpx.Client(transport=self.transport())
        return EmbedClient(**{"api_key": "test", "base_url": self.base_url, "http_client": connection, **options})

    def async_client(self, **options: Any) -> AsyncEmbedClient:
        """Return an asynchronous client of this emulator.

        Args:
            **options: Further keyword arguments of `AsyncEmbedClient`.
        """
        import httpx

        from embed_pipeline.client import AsyncEmbedClient

        connection = httpx.AsyncClient(transport=self.async_transport())
        return AsyncEmbedClient(**{"api_key": "test", "base_url": self.base_url, "http_client": connection, **options})

    def finish(self, task_id: str | None = None) -> None:
        """Let a task (or every task) show its outcome, and wait until its work is done.

        Raises:
            TimeoutError: If the work takes longer than a minute.
            ConfigurationError: There is no such task.
        """
        if task_id is not None:
            self._require(task_id)
        store, clock = self.platform.store, self.platform.clock
        store.release(task_id, now=clock.now())
        deadline = time.monotonic() + _FINISH_SEC
        while store.unfinished(task_id):
            if time.monotonic() > deadline:
                raise TimeoutError(f"The emulator did not finish its tasks within {_FINISH_SEC:.0f} seconds.")
            time.sleep(0.002)

    def _require(self, task_id: str) -> None:
        if self.platform.store.get(task_id) is None:
            raise ConfigurationError(f"There is no task {task_id!r}.")

    def fail(self, task_id: str, message: str = "failed") -> None:
        """Make a task fail.

        Args:
            task_id: The task.
            message: The platform's words, or the short name of a documented message such as `unstable`.

        Raises:
            ConfigurationError: There is no such task.
        """
        from embed_pipeline.emulator.control.faults import MESSAGES

        self._require(task_id)
        self.platform.store.overrule(task_id, MESSAGES.get(message, message), now=self.platform.clock.now())

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock forward: results expire after seven days."""
        self.platform.clock.advance(seconds)

    def inject(self, *rules: dict[str, Any], seed: int = 0) -> None:
        """Put fault rules in force, in place of those before.

        Args:
            *rules: In the form of the faults file, such as `{"kind": "drop", "on": "create", "when": "after"}`.
            seed: What their draws are seeded with.
        """
        self.platform.faults.replace(rules, seed)

    def journal(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return the requests so far, oldest first, of one endpoint or all."""
        return self.platform.journal.entries(endpoint=endpoint)

    def summary(self) -> dict[str, Any]:
        """Count requests, tasks created, and sources for which more than one task was created."""
        return self.platform.journal.summary()

    def tasks(self) -> list[Task]:
        """Return every task, newest first."""
        self.platform.store.settle(self.platform.clock.now())
        return self.platform.store.page(first_ms=0, last_ms=None, status=None, offset=0, limit=10**9)[0]

    def close(self) -> None:
        """End it; its state is deleted unless the settings name a folder."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        self.platform.close()

    def __enter__(self) -> InProcessEmulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self, request: httpx.Request, body: bytes) -> Future[httpx.Response]:
        """Serve a request on the emulator's own event loop, so that clients on any loop or none share it."""
        from embed_pipeline.emulator.api.transport import respond

        return asyncio.run_coroutine_threadsafe(respond(self._application, request, body), self._loop)


@pytest.fixture
def embed_emulator_settings() -> EmulatorSettings:
    """Settings of the emulator fixtures; override it in a test module or conftest.py."""
    return TEST_SETTINGS


@pytest.fixture
def embed_emulator(embed_emulator_settings: EmulatorSettings) -> Iterator[InProcessEmulator]:
    """An emulator inside the test's process: starts in milliseconds, finishes tasks on command, time stands still."""
    with InProcessEmulator(embed_emulator_settings) as emulator:
        yield emulator


@pytest.fixture
def embed_server(embed_emulator_settings: EmulatorSettings) -> Iterator[Emulator]:
    """An emulator behind a real socket, for code that runs in other processes; tasks finish at once."""
    settings = replace(embed_emulator_settings, timing=Timing())
    with Emulator(settings) as emulator:
        yield emulator
