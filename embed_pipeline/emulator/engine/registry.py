"""Finding an engine by its name."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import numpy as np

from embed_pipeline.emulator.engine.features.projection import shorten
from embed_pipeline.emulator.engine.request import (
    EmbedRequest,
    Engine,
    EngineLimits,
    EngineResult,
    FloatArray,
    Progress,
    no_progress,
)
from embed_pipeline.errors import ConfigurationError


@functools.lru_cache(maxsize=8)
def load_engine(name: str) -> Engine:
    """The engine of that name, built once per process.

    Args:
        name: `signal`, `models` (needs the extra of that name), or `package.module:attribute` for one of your own,
            where the attribute is an engine or something that returns one when called.

    Raises:
        ConfigurationError: There is no such engine, or it cannot be built.
    """
    if name == "signal":
        from embed_pipeline.emulator.engine.signal import SignalEngine

        return SignalEngine()
    if name == "models":
        from embed_pipeline.emulator.engine.models.engine import ModelsEngine

        return ModelsEngine()
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise ConfigurationError(
            f"there is no engine {name!r}: use 'signal', 'models', or 'package.module:attribute' for one of your own"
        )
    try:
        engine = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the engine {name!r} cannot be loaded: {error}") from error
    if callable(engine) and (isinstance(engine, type) or not isinstance(engine, Engine)):
        engine = engine()
    if not isinstance(engine, Engine):
        raise ConfigurationError(f"{name!r} is not an engine: it needs a `name` and a method `embed`")
    return engine


def embed(
    path: Path,
    request: EmbedRequest,
    *,
    engine: str = "signal",
    limits: EngineLimits | None = None,
    progress: Progress = no_progress,
) -> EngineResult:
    """Embed one local media file in this process.

    Only for files that you trust: a decoder that crashes takes this process with it. See `embed_isolated`.

    Args:
        path: The media file.
        request: What to embed of it.
        engine: Which engine; see `load_engine`.
        limits: What is refused: of these only duration and picture size count here.
        progress: Called now and then with the seconds of media done.

    Raises:
        MediaFailure: The file cannot be embedded.
        ConfigurationError: There is no such engine.
    """
    return run(load_engine(engine), Path(path), request, limits or EngineLimits(), progress)


def run(engine: Engine, path: Path, request: EmbedRequest, limits: EngineLimits, progress: Progress) -> EngineResult:
    """Have an engine embed one file, whatever its medium.

    Args:
        engine: The engine. Of an image or a text it gets the picture or the words.
        path: The file.
        request: What to embed of it.
        limits: What it may cost.
        progress: Called now and then.

    Raises:
        MediaFailure: The file cannot be embedded.
    """
    if request.media_type in ("image", "text"):
        from embed_pipeline.emulator.engine.stills import embed_still

        return embed_still(engine, path, request, limits)
    return engine.embed(path, request, limits, progress)


def embed_query(text: str, *, engine: str = "signal", dimension: int = 512) -> FloatArray:
    """One vector for a question, to be compared with the `transcription` rows of the same engine and no others.

    Args:
        text: What to look for.
        engine: Which engine made the rows.
        dimension: How many values their vectors have.

    Returns:
        float32 of shape (dimension,), of unit length.

    Raises:
        ConfigurationError: There is no such engine, or it does not embed text.
    """
    embed_words = getattr(load_engine(engine), "embed_words", None)
    if embed_words is None:
        raise ConfigurationError(f"the engine {engine!r} does not embed text: it has no method 'embed_words'")
    return shorten(np.asarray([embed_words(text)], np.float32), dimension).reshape(-1)
