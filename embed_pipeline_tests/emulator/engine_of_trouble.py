"""An engine of our own that does what a file tells it to, so that the tests can watch what becomes of its process."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np

from embed_pipeline.emulator.engine import EmbedRequest, EngineLimits, EngineResult


class TroubleEngine:
    name = "trouble-1"

    def embed(self, path: Path, request: EmbedRequest, limits: EngineLimits, progress) -> EngineResult:
        order = path.read_text()
        if order == "crash":
            ctypes.string_at(0)
        if order == "exit":
            os._exit(3)
        if order == "hang":
            time.sleep(600)
        if order == "bloat":
            held = [np.ones(1 << 27, np.uint8) for _ in range(1 << 10)]
            return held[0]
        if order == "print":
            os.write(1, b"a library that prints\n" * 100)
        if order == "slow":
            for second in range(30):
                time.sleep(0.1)
                progress(float(second))
        if order == "mistake":
            raise ZeroDivisionError("a mistake of the engine")
        secret = os.environ.get("EMBED_API_KEY", "no key")
        return EngineResult(
            duration_sec=1.0,
            options=("audio",),
            scopes=("asset",),
            start_sec=np.zeros(1),
            end_sec=np.ones(1),
            vectors=np.eye(1, request.dimension, dtype=np.float32),
            uncertainty=None,
            missing={"visual": f"{os.getpid()} {secret}"},
            engine=self.name,
        )


class MistakenEngine(TroubleEngine):
    name = "mistaken-1"

    def embed_words(self, text: str) -> np.ndarray:
        raise ZeroDivisionError(text)
