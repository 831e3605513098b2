"""Engines: what turns a media file into vectors, without a network and without an account.

`embed` does it in this process; `embed_isolated` in a child process with limits, for files that nobody vouches for.
"""

from __future__ import annotations

from embed_pipeline.emulator.engine.failure import MediaFailure
from embed_pipeline.emulator.engine.isolation import close_workers, embed_isolated
from embed_pipeline.emulator.engine.registry import embed, embed_query, load_engine
from embed_pipeline.emulator.engine.request import (
    Dynamic,
    EmbedRequest,
    Engine,
    EngineLimits,
    EngineResult,
    Fixed,
)

__all__ = [
    "Dynamic",
    "EmbedRequest",
    "Engine",
    "EngineLimits",
    "EngineResult",
    "Fixed",
    "MediaFailure",
    "close_workers",
    "embed",
    "embed_isolated",
    "embed_query",
    "load_engine",
]
