"""Keeps a library of audio and video embedded, with Dagster.

The public names. They are imported when they are first used, so that ``import embed_pipeline`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.orchestration.definitions import EmbedPipelineComponent, build_definitions
    from embed_pipeline.orchestration.resources import (
        EmbedClientResource,
        EmbeddingLedgerResource,
        EmbeddingStoreResource,
        MediaLibraryResource,
    )
    from embed_pipeline.pipeline import EmbeddingPipeline
    from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy, Segmentation

__version__ = "0.1.0"

__all__ = [
    "Blueprint",
    "EmbedClientResource",
    "EmbedPipelineComponent",
    "EmbeddingLedgerResource",
    "EmbeddingPipeline",
    "EmbeddingSettings",
    "EmbeddingStoreResource",
    "MediaLibraryResource",
    "PipelinePolicy",
    "Segmentation",
    "__version__",
    "build_definitions",
]

_MODULES = {
    "Blueprint": "orchestration.blueprint",
    "EmbedClientResource": "orchestration.resources",
    "EmbedPipelineComponent": "orchestration.definitions",
    "EmbeddingLedgerResource": "orchestration.resources",
    "EmbeddingPipeline": "pipeline",
    "EmbeddingSettings": "pipeline.settings",
    "EmbeddingStoreResource": "orchestration.resources",
    "MediaLibraryResource": "orchestration.resources",
    "PipelinePolicy": "pipeline.settings",
    "Segmentation": "pipeline.settings",
    "build_definitions": "orchestration.definitions",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"embed_pipeline.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
