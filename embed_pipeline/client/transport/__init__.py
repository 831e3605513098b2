"""Transport of requests over httpx, with threads and with asyncio."""

from __future__ import annotations

from embed_pipeline.client.transport.drivers import MAX_BODY_BYTES, AsyncioDriver, ThreadDriver
from embed_pipeline.client.transport.network import (
    DEFAULT_TIMEOUT_SEC,
    MIN_BYTES_PER_SEC,
    AttemptTimeout,
    Network,
    Verify,
    make_async_http_client,
    make_http_client,
)

__all__ = [
    "DEFAULT_TIMEOUT_SEC",
    "MAX_BODY_BYTES",
    "MIN_BYTES_PER_SEC",
    "AsyncioDriver",
    "AttemptTimeout",
    "Network",
    "ThreadDriver",
    "Verify",
    "make_async_http_client",
    "make_http_client",
]
