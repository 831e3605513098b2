from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from embed_pipeline.client import Budget, EmbedClient, RetryPolicy, VideoInputRequest
from embed_pipeline.client.exchange import CreateRegistry
from embed_pipeline_tests.client.asyncio_client import AsyncioClient
from embed_pipeline_tests.client.scripted_server import ScriptedServer, serving

QUICK = RetryPolicy(
    max_attempts=4,
    initial_delay_sec=0.01,
    max_delay_sec=0.02,
    max_wait_sec=2.0,
    settle_delays_sec=(0.01, 0.01),
    doubt_margin_sec=0.1,
)


@pytest.fixture
def platform() -> Iterator[ScriptedServer]:
    # What a process remembers of a platform would otherwise meet a server that has got the same port.
    Budget._shared.clear()
    CreateRegistry._shared.clear()
    with serving() as server:
        yield server


@pytest.fixture(params=[EmbedClient, AsyncioClient], ids=["threads", "asyncio"])
def client(platform: ScriptedServer, request: pytest.FixtureRequest) -> Iterator[EmbedClient]:
    with request.param(api_key="tlk_secret", base_url=platform.base_url, retries=QUICK, timeout=10) as embed_client:
        yield embed_client


@pytest.fixture
def video() -> Callable[..., VideoInputRequest]:
    """Makes videos with URLs of their own."""
    numbers = itertools.count()

    def make(url: str | None = None, **fields: object) -> VideoInputRequest:
        return VideoInputRequest.model_validate(
            {
                "media_source": {"url": url or f"https://media.example/{next(numbers)}.mp4"},
                "embedding_option": ["visual", "audio"],
                "embedding_scope": ["clip"],
                **fields,
            }
        )

    return make
