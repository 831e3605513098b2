"""Keeps a library of audio and video embedded, with Dagster.

The public names. They are imported when they are first used, so that ``import embed_pipeline`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.orchestration.component import EmbedPipelineComponent
    from embed_pipeline.orchestration.pipeline import build_definitions
    from embed_pipeline.orchestration.policy import PipelinePolicy
    from embed_pipeline.orchestration.resources import (
        EmbedClientResource,
        EmbeddingStoreResource,
        MediaLibraryResource,
    )
    from embed_pipeline.orchestration.settings import EmbeddingSettings, Segmentation

__version__ = "0.1.0"

__all__ = [
    "Blueprint",
    "EmbedClientResource",
    "EmbedPipelineComponent",
    "EmbeddingSettings",
    "EmbeddingStoreResource",
    "MediaLibraryResource",
    "PipelinePolicy",
    "Segmentation",
    "__version__",
    "build_definitions",
]

_ROOMS = {
    "Blueprint": "blueprint",
    "EmbedClientResource": "resources",
    "EmbedPipelineComponent": "component",
    "EmbeddingSettings": "settings",
    "EmbeddingStoreResource": "resources",
    "MediaLibraryResource": "resources",
    "PipelinePolicy": "policy",
    "Segmentation": "settings",
    "build_definitions": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"embed_pipeline.orchestration.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
