"""The code location that the daemon of the tests loads: what the environment of its process names."""

from __future__ import annotations

import os

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource
from embed_pipeline.pipeline.settings import PipelinePolicy

_ROOT = os.environ["TEST_PIPELINE_ROOT"]
BLUEPRINT = Blueprint(
    client=EmbedClientResource(base_url=os.environ["TEST_PIPELINE_URL"]),
    library=MediaLibraryResource(location=f"{_ROOT}/media", settle_sec=0.0, cache=f"{_ROOT}/fingerprints.sqlite"),
    store=EmbeddingStoreResource(root=f"{_ROOT}/embeddings"),
    policy=PipelinePolicy(
        submit_automatically=True, partitions_per_run=4, sensor_interval_sec=5, collect_wait_sec=30.0
    ),
)
defs = build_definitions(BLUEPRINT)
