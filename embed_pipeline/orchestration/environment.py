"""The blueprint that the environment describes: what definitions.py and the command line build on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.policy import PipelinePolicy
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource

API_KEY_VARIABLES = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY")
BASE_URL_VARIABLES = ("EMBED_BASE_URL", "TWELVELABS_BASE_URL")
MEDIA_VARIABLE = "EMBED_MEDIA"
OUTPUT_VARIABLE = "EMBED_OUTPUT"
INTERVAL_VARIABLE = "EMBED_SENSOR_INTERVAL"


def blueprint_from_environment(environment: Mapping[str, str]) -> Blueprint:
    """Read the blueprint of the one pipeline that the environment describes.

    Without a key the emulator is meant; it costs nothing, so new files are submitted without being asked.
    """
    key_variable = next((name for name in API_KEY_VARIABLES if environment.get(name)), None)
    base_url = next((environment[name] for name in BASE_URL_VARIABLES if environment.get(name)), "")
    client = EmbedClientResource(
        # The variable's name, not its value, is what Dagster shows.
        api_key=dg.EnvVar(key_variable) if key_variable else "",
        base_url=base_url,
    )
    policy = PipelinePolicy(
        submit_automatically=client.is_emulator,
        sensor_interval_sec=int(environment.get(INTERVAL_VARIABLE) or 30),
    )
    return Blueprint(
        client=client,
        library=MediaLibraryResource(location=environment.get(MEDIA_VARIABLE) or str(Path("media").absolute())),
        store=EmbeddingStoreResource(root=environment.get(OUTPUT_VARIABLE) or str(Path("embeddings").absolute())),
        policy=policy,
    )
