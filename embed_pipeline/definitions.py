"""The code location: the pipeline that the environment describes."""

from __future__ import annotations

import os

from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.environment import blueprint_from_environment

defs = build_definitions(blueprint_from_environment(os.environ))
