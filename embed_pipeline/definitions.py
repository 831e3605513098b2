"""Code location: the pipeline that the environment describes."""

from __future__ import annotations

import os

import dagster as dg

from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.environment import blueprint_from_environment

# Runs that are launched from an asset's page belong to no job of ours. This location has nothing but our assets, and a
# process for each of their steps would cost more than the steps.
defs = dg.Definitions.merge(
    build_definitions(blueprint_from_environment(os.environ)), dg.Definitions(executor=dg.in_process_executor)
)
