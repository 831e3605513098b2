"""Pipeline: the work of embedding a media library, without Dagster."""

from __future__ import annotations

from embed_pipeline.pipeline.pipeline import EmbeddingPipeline
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy, Segmentation

__all__ = ["EmbeddingPipeline", "EmbeddingSettings", "PipelinePolicy", "Segmentation"]
